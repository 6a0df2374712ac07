"""From a validated body to the request that is scored: both forms of candidates become columns.

Null is the same as leaving a field out: a candidate's null context falls back on the request's, a null `ad` field on
the catalogue's. No loop touches a candidate that is a plain id.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from contract import keys
from contract.errors import InputError, KeyFormatError
from contract.schema import RawValue
from service.api.body import Body
from service.api.complaints import Path, where
from service.errors import Complaint, InvalidRequestError
from service.scoring.request import RawId, ScoreRequest

Columns: TypeAlias = dict[str, list[RawValue]]

DAY_S: Final = 86_400
MOST_RESERVED: Final = 0.05
"""Share of a deadline that is kept for an answer's wait, at most."""
LOOKS_LIKE_MS: Final = 100_000_000_000  # seconds would be the year 5138


@dataclass(frozen=True, slots=True)
class Moment:
    """When a request came.

    Attributes:
        now_s: seconds UTC, the default timestamp.
        arrived_s: reading of the clock, from which deadlines count.
        answer_wait_s: how long an answer that is ready may wait until it is sent.

    """

    now_s: float
    arrived_s: float
    answer_wait_s: float = 0.0

    def deadline_s(self, deadline_ms: float) -> float:
        """Return when the scores have to be there; infinite for 0."""
        if not deadline_ms:
            return float("inf")
        allowed_s = deadline_ms / 1e3
        return self.arrived_s + allowed_s - min(self.answer_wait_s, MOST_RESERVED * allowed_s)


def request_of(body: Body, moment: Moment, *, default_deadline_ms: float) -> ScoreRequest:
    """Return what a validated body asks for.

    Args:
        body: of `BodyReader`.
        moment: when it came.
        default_deadline_ms: for bodies that bring none; 0 = none.

    Raises:
        InvalidRequestError: columns of different lengths, or a timestamp that can't be meant.

    """
    deadline_ms = body.get("deadline_ms") or default_deadline_ms
    shared: dict[str, RawValue] = body.get("context") or {}
    candidates: Any = body["candidates"]
    if isinstance(candidates, dict):
        ad_ids, context, overrides = _from_columns(candidates)
    else:
        ad_ids, context, overrides = _from_rows(candidates)
    for name in context.keys() & shared.keys():
        context[name] = [shared[name] if value is None else value for value in context[name]]
    return ScoreRequest(
        user_id=body["user_id"],
        ad_ids=ad_ids,
        timestamp=_timestamp(body.get("timestamp"), moment.now_s),
        deadline_s=moment.deadline_s(deadline_ms),
        context=shared,
        candidate_context=context,
        overrides=overrides,
        explain=body.get("explain") or 0,
    )


def too_long(body: Body, error: InputError) -> InvalidRequestError:
    """Return where the values are that have no key, in a body where `error` says there is one.

    The rules of the body count characters; only what has few characters and many bytes comes this far.
    """
    complaints = [
        Complaint(where(path), what) for path, value in _leaves(body, ()) if (what := _complaint(value))
    ]
    return InvalidRequestError(complaints or [Complaint("body", str(error))])


def _leaves(value: object, path: Path) -> Iterator[tuple[Path, object]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    else:
        yield path, value


def _complaint(value: object) -> str:
    if type(value) not in (str, int):
        return ""
    try:
        keys.text_of(value)
    except KeyFormatError as error:
        return str(error)
    return ""


def _timestamp(given: int | None, now_s: float) -> int:
    if given is None:
        return int(now_s)
    if given < 0:
        raise InvalidRequestError.at(
            "timestamp", f"{given} is negative; timestamps are seconds since 1970, UTC"
        )
    if given > now_s + DAY_S:
        hint = "it looks like milliseconds" if given > LOOKS_LIKE_MS else "it is more than a day ahead"
        raise InvalidRequestError.at("timestamp", f"{given}: {hint}; timestamps are seconds since 1970, UTC")
    return given


def _from_rows(rows: list[Any]) -> tuple[list[RawId], Columns, Columns]:
    if dict not in set(map(type, rows)):
        return rows, {}, {}
    context: Columns = {}
    overrides: Columns = {}
    ad_ids: list[RawId] = []
    for index, row in enumerate(rows):
        if type(row) is not dict:
            ad_ids.append(row)
            continue
        ad_ids.append(row["ad_id"])
        for columns, features in ((context, row.get("context")), (overrides, row.get("ad"))):
            for name, value in (features or {}).items():
                if name not in columns:
                    columns[name] = [None] * len(rows)
                columns[name][index] = value
    return ad_ids, context, overrides


def _from_columns(columns: Mapping[str, Any]) -> tuple[list[RawId], Columns, Columns]:
    ad_ids: list[RawId] = columns["ad_id"]
    complaints = [
        Complaint(f"candidates.{group}.{name}", f"has {len(column)} values for {len(ad_ids)} candidates")
        for group in ("context", "ad")
        for name, column in (columns.get(group) or {}).items()
        if len(column) != len(ad_ids)
    ]
    if complaints:
        raise InvalidRequestError(complaints)
    return ad_ids, dict(columns.get("context") or {}), dict(columns.get("ad") or {})
