"""Chooses the golden requests of a bundle: logged ones of every length, and the cases that go wrong first."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contract.encoder import Encoder
from contract.records import Records, empty_records
from contract.request import RawRequest
from contract.schema import RawValue, SchemaField
from training.dataset import Dataset

LOGGED: Final = 24
MANY: Final = 100
_MOST_CANDIDATES: Final = 64  # of a logged request; keeps the folder small
_UNKNOWN: Final = "longsight-golden-unknown"
_HOUR: Final = 3600

Case = tuple[str, RawRequest]


def golden_requests(dataset: Dataset, encoder: Encoder) -> list[Case]:
    """Return at least 32 raw requests, each with a few words on what it is about.

    Deterministic: the same dataset and encoder give the same requests.
    """
    logged = _Logged(dataset, history_length=encoder.history_length)
    cases = [("a logged request", logged.request(index)) for index in _spread(dataset, LOGGED)]
    base = max((request for _, request in cases), key=lambda request: min(len(request.history), 3))
    return cases + list(_edge_cases(base, logged, encoder.history_length))


def _spread(dataset: Dataset, count: int) -> list[int]:
    """Return requests after the training period, evenly spread over the lengths of their histories."""
    later = np.flatnonzero(dataset.requests["split"] > 0)
    requests = dataset.requests[later]
    order = later[np.argsort(requests["end"] - requests["start"], kind="stable")]
    return [int(order[i]) for i in np.linspace(0, len(order) - 1, count).round().astype(int)]


class _Logged:
    """Reads requests of a dataset back into raw values."""

    def __init__(self, dataset: Dataset, *, history_length: int) -> None:
        self.dataset = dataset
        self.schema = dataset.schema
        self._length = history_length
        self._users, self._ads = dataset.names("user"), dataset.names("ad")
        self._texts = {name: dataset.texts(name) for name in dataset.schema.vocabularies}

    def request(self, index: int) -> RawRequest:
        """Return a logged request with the newest L + 1 events before it and at most 64 candidates."""
        row = self.dataset.requests[index]
        end = int(row["end"])
        start = max(int(row["start"]), end - self._length - 1)
        rows = int(row["first_row"]) + np.arange(min(int(row["rows"]), _MOST_CANDIDATES))
        user = int(row["user"])
        return RawRequest(
            timestamp=int(row["timestamp"]),
            history=np.array(self.dataset.records[start:end]),
            ads=[self.ad(int(ad)) for ad in self.dataset.row("ad")[rows]],
            candidate_context={
                field.name: self._values(field, self.dataset.column("context", field.name)[rows])
                for field in self.schema.context
            },
            user={
                **self._features("user", self.schema.user, user),
                "user_id": self._users.get(int(self.dataset.user_keys[user])),
            },
        )

    def ad(self, index: int) -> dict[str, RawValue]:
        """Return the raw features of one ad of the catalogue, its id among them."""
        ad_id = self._ads.get(int(self.dataset.ad_keys[index]))
        return {**self._features("ad", self.schema.ad, index), "ad_id": ad_id}

    def _features(self, group: Any, fields: tuple[SchemaField, ...], index: int) -> dict[str, RawValue]:  # noqa: ANN401 - "ad" or "user"
        return {
            field.name: self._values(field, self.dataset.column(group, field.name)[index : index + 1])[0]
            for field in fields
        }

    def _values(self, field: SchemaField, packed: NDArray[Any]) -> list[RawValue]:
        if field.vocabulary is None:
            return [None if np.isnan(value) else float(value) for value in packed]
        texts = self._texts[field.vocabulary]
        return [texts.get(int(key)) or None for key in packed]


def _edge_cases(base: RawRequest, logged: _Logged, length: int) -> Iterator[Case]:
    """Yield variations of one logged request."""
    none = empty_records(logged.schema)
    unknown_ad: dict[str, RawValue] = {"ad_id": _UNKNOWN}
    bare_ads = [{"ad_id": ad["ad_id"]} for ad in base.ads]
    nulls = [{name: ad[name] if name == "ad_id" else None for name in ad} for ad in base.ads]
    yield "an empty history", replace(base, history=none)
    yield "one event", replace(base, history=_events(base, logged, 1))
    yield "L events", replace(base, history=_events(base, logged, length))
    yield "L + 1 events", replace(base, history=_events(base, logged, length + 1))
    yield "events at and after the request", replace(base, history=_straddling(base, logged, length))
    yield "events of the last second and of long ago", replace(base, history=_old_and_new(base, logged))
    yield "an unknown ad", _with_ads(base, [unknown_ad, *base.ads[1:]])
    yield "only unknown ads", _with_ads(base, [{"ad_id": f"{_UNKNOWN}-{i}"} for i in range(3)])
    yield "ads without features", replace(base, ads=bare_ads)
    yield "null features", replace(base, ads=nulls, user=dict.fromkeys(base.user))
    yield (
        "whole numbers as ids",
        replace(base, ads=[{**ad, "ad_id": _as_number(ad["ad_id"])} for ad in base.ads]),
    )
    yield "an unknown user", replace(base, history=none, user={"user_id": _UNKNOWN})
    yield "an anonymous user", replace(base, history=none, user={})
    yield "no context", replace(base, candidate_context={})
    yield "context per request", replace(base, candidate_context={}, context=_shared(base))
    yield "one candidate", _with_ads(base, base.ads[:1])
    yield "the same ad twice", _with_ads(base, [base.ads[0], base.ads[0]])
    catalogue = len(logged.dataset.ad_keys)
    many = [logged.ad(int(i)) for i in np.linspace(0, catalogue - 1, MANY).astype(int)]
    yield "many candidates", _with_ads(base, many)


def _with_ads(base: RawRequest, ads: list[Any] | Any) -> RawRequest:  # noqa: ANN401 - any sequence of ads
    """Return the request with other candidates; their contexts repeat those of the base."""
    context: Mapping[str, list[RawValue]] = {
        name: [values[i % len(values)] for i in range(len(ads))]
        for name, values in base.candidate_context.items()
    }
    return replace(base, ads=list(ads), candidate_context=context)


def _as_number(text: RawValue) -> RawValue:
    return int(text) if isinstance(text, str) and text.isdecimal() and str(int(text)) == text else text


def _shared(base: RawRequest) -> dict[str, RawValue]:
    return {name: values[0] for name, values in base.candidate_context.items()}


def _events(
    base: RawRequest, logged: _Logged, count: int, *, age_of: Callable[[int], int] | None = None
) -> Records:
    """Return `count` events of the log, their times rewritten to end an hour and a lag before the request.

    `age_of` gives the age in seconds of the event that is i places from the newest.
    """
    lag = logged.dataset.history_lag_s
    stored = logged.dataset.records
    events = (
        np.resize(np.array(stored[: max(count, 1)]), count)
        if len(stored)
        else empty_records(logged.schema, count)
    )
    places = np.arange(count)[::-1]
    ages = [age_of(int(i)) if age_of else _HOUR * (int(i) + 1) for i in places]
    events["timestamp"] = np.clip([base.timestamp - lag - age for age in ages], 0, None)
    return events


def _straddling(base: RawRequest, logged: _Logged, length: int) -> Records:
    """Return more than L events around the moment from which on they must not be seen."""
    return _events(base, logged, length + 4, age_of=lambda place: place - 2)


def _old_and_new(base: RawRequest, logged: _Logged) -> Records:
    """Return events whose ages are powers of two and their neighbours, where age buckets begin."""
    ages = sorted({max(1, 2**bit + offset) for bit in range(28) for offset in (-1, 0)})
    return _events(base, logged, len(ages), age_of=lambda place: ages[place])
