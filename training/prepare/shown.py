"""Second pass over the impressions of one range of users: requests in order, and what contradicts itself in them.

A part writes the arrays of the dataset for its range, its rows counted from 0, and the key of each request's user;
what it finds wrong it only notes, so that the first bad row of the whole log can be named (`refuse_conflicts`).
"""

from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contract.files import write_json_atomic
from contract.log import TWICE, TWO_REQUESTS, Log, refusal, refuse_mixed_rates
from contract.schema import Split
from training.dataset import REQUEST, split_codes
from training.prepare.chunks import FIELD
from training.prepare.keyed import read_part
from training.prepare.work import FACTS, Facts, Work, write_array

KIND: Final = "shown"


class ShownParts:
    """Makes the parts of the impressions."""

    def __init__(self, source: Log, work: Work, split: Split) -> None:
        self._source = source
        self._work = work
        self._split = split
        self._ads: NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)

    def make(self) -> None:
        """Make all parts; needs the chunks of the impressions and the catalogue."""
        self._ads = np.load(self._work.place("ads", 0) / "ad_keys.npy")
        self._work.make(KIND, self._work.parts, self._build, label="grouping requests")

    def _build(self, part: int) -> None:
        chunks = self._work.pieces("impressions")
        frame = read_part([folder / "shown.parquet" for folder in chunks], part)
        frame = frame.sort("key", "timestamp", "request", "row")  # a missing request id comes first
        head, group = _groups(frame)
        times = frame["timestamp"].to_numpy()[head]
        requests = np.zeros(len(head), dtype=REQUEST)
        requests["timestamp"] = times
        requests["first_row"] = head
        requests["rows"] = np.diff(head, append=frame.height)
        requests["split"] = split_codes(times, self._split)
        facts = {
            "requests": np.bincount(requests["split"], minlength=3).tolist(),
            "first": int(times.min()) if len(times) else None,
            "last": int(times.max()) if len(times) else None,
            "clicked": int(frame["clicked"].sum()),
            "rates": _rates(frame),
            "null_rate": _smallest(frame["row"].filter(frame["rate"].is_nan())),
            "repeated_ad": _repeated_ad(frame, group),
            "double_request": self._double_request(chunks, part),
        }
        with self._work.piece(KIND, part) as folder:
            write_array(folder / "requests.npy", requests)
            write_array(folder / "request_user.npy", frame["key"].to_numpy()[head])
            self._save_rows(folder, frame)
            write_json_atomic(folder / FACTS, facts)

    def _save_rows(self, folder: Path, frame: pl.DataFrame) -> None:
        ad = np.searchsorted(self._ads, frame["ad"].to_numpy()).astype(np.int32)
        write_array(folder / "row_ad.npy", ad)
        write_array(folder / "row_log_row.npy", frame["row"].to_numpy())
        write_array(folder / "row_clicked.npy", frame["clicked"].to_numpy())
        write_array(folder / "row_rate.npy", frame["rate"].to_numpy())
        for field in self._source.schema.context:
            write_array(folder / f"row_context_{field.name}.npy", frame[FIELD + field.name].to_numpy())

    @staticmethod
    def _double_request(chunks: list[Path], part: int) -> int | None:
        """Return the first row of a request id that has two users or times; of several ids the first such row."""
        found = read_part([folder / "requests.parquet" for folder in chunks], part).sort("key", "row")
        changed = (found["user"] != found["user"].shift()) | (
            found["timestamp"] != found["timestamp"].shift()
        )
        again = found["key"] == found["key"].shift()
        double = found.filter(again & changed)["key"]
        return _smallest(found.filter(found["key"].is_in(double.implode()))["row"])


def refuse_conflicts(source: Log, facts: list[Facts]) -> None:
    """Refuse a log whose impressions contradict each other; the first bad row is named.

    Raises:
        LogError: rates of which only some are known, a request id of two users or times, an ad twice in a request.

    """
    place = source.place("impressions")
    first_null = _first(facts, "null_rate")
    known = any(value for fact in facts for value in fact["rates"].values())
    refuse_mixed_rates(place, known=known, first_null=first_null)
    double = _first(facts, "double_request")
    if double is not None:
        raise refusal(
            place, "request_id", double, source.value("impressions", "request_id", double), TWO_REQUESTS
        )
    repeated = min((fact["repeated_ad"] for fact in facts if fact["repeated_ad"]), default=None)
    if repeated is None:
        return
    row, earlier = repeated
    clicks = [source.value("impressions", "clicked", each) for each in (earlier, row)]
    if clicks[0] == clicks[1]:
        what = f"{TWICE} in one request (first in row {earlier}); keep one of the two"
        raise refusal(place, "ad_id", row, source.value("impressions", "ad_id", row), what)
    what = f"contradicts row {earlier}, the same ad in the same request; keep one of the two"
    raise refusal(place, "clicked", row, clicks[1], what)


def _groups(frame: pl.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first row of each request, and the request of each row."""
    request = frame["request"]
    new = request.ne_missing(request.shift()).to_numpy().copy()
    for name in ("key", "timestamp"):
        column = frame[name].to_numpy()
        new[1:] |= column[1:] != column[:-1]
    new[:1] = True
    return np.flatnonzero(new), np.cumsum(new) - 1


def _rates(frame: pl.DataFrame) -> dict[str, list[float]]:
    """Return up to two known rates of clicked rows and of others: one is constant, two are not."""
    rate, clicked = frame["rate"].to_numpy(), frame["clicked"].to_numpy()
    known = ~np.isnan(rate)
    values = {"clicked": rate[known & (clicked == 1)], "not_clicked": rate[known & (clicked == 0)]}
    return {name: np.unique(found)[:2].astype(np.float64).tolist() for name, found in values.items()}


def _repeated_ad(frame: pl.DataFrame, group: NDArray[np.int64]) -> list[int] | None:
    """Return the first row that shows an ad again in its request, and the row that did first."""
    pairs = frame.select("ad", "row").with_columns(pl.Series("request", group))
    twice = pairs.filter(pairs.select("request", "ad").is_duplicated()).sort("request", "ad", "row")
    again = twice.with_columns(pl.col("row").first().over("request", "ad").alias("earlier"))
    again = again.filter(pl.col("row") != pl.col("earlier"))
    if not again.height:
        return None
    row = _smallest(again["row"])
    return [row, again.filter(pl.col("row") == row)["earlier"].item()]


def _smallest(rows: pl.Series) -> int | None:
    return int(rows.to_numpy().min()) if len(rows) else None


def _first(facts: list[Facts], name: str) -> int | None:
    """Return the smallest row that any part noted under a name."""
    return min((fact[name] for fact in facts if fact[name] is not None), default=None)
