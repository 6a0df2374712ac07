"""Brings logged impressions and their offline predictions together, request by request.

The log holds what was shown and where; the predictions, one row per impression of a split, hold the log-odds. Both
are in the log's order, so the n-th time an ad appears in a request is the same row in both.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contract.errors import InputError
from contract.log import Log, read_log

REQUEST: Final = ["user_id", "timestamp", "request_id"]
KEY: Final = [*REQUEST, "ad_id", "nth"]


class PredictionsError(InputError):
    """The predictions are unreadable, or not those of this log."""


@dataclass(frozen=True)
class LoggedRequest:
    """One request as it was logged: the body for `POST /score` and the offline log-odds `[candidates]`."""

    name: str
    body: dict[str, Any]
    logit: NDArray[np.float64]


def read_pairs(log: Path, predictions: Path) -> tuple[pl.DataFrame, Sequence[str]]:
    """Return one row per predicted impression, `REQUEST`, `ad_id`, context fields and `logit`, and the context's names.

    Raises:
        LogError, SchemaError: the log is not as the design says.
        PredictionsError: the predictions are unreadable or hold an impression that the log has not.

    """
    source = read_log(log)
    wanted = _predictions(predictions, source)
    context = [field.name for field in source.schema.context]
    joined = _numbered(wanted).join(
        _numbered(source.impressions).select(*KEY, *context, pl.lit(value=True).alias("logged")),
        on=KEY,
        how="left",
        nulls_equal=True,
        maintain_order="left",
    )
    stray = joined["logged"].is_null().arg_true()
    if len(stray):
        row = int(stray[0])
        raise PredictionsError(
            f"{predictions}: row {row} (user {joined['user_id'][row]}, ad {joined['ad_id'][row]}, "
            f"time {joined['timestamp'][row]}) is no impression of {log}; were they made from this log?"
        )
    return joined.select(*REQUEST, "ad_id", *context, "logit"), context


def requests(pairs: pl.DataFrame, context: Sequence[str], *, limit: int | None) -> Iterator[LoggedRequest]:
    """Yield the logged requests; with `limit`, so many, evenly spread over all.

    A context field that is the same for all candidates of a request is sent once, else per candidate.
    """
    groups = pairs.with_row_index("row").group_by(REQUEST, maintain_order=True).agg(pl.col("row"))
    chosen = np.arange(groups.height)
    if limit is not None and limit < groups.height:
        chosen = np.linspace(0, groups.height - 1, limit).round().astype(np.int64)
    for group in groups[chosen].iter_rows(named=True):
        rows = pairs[group["row"]]
        body = request_body(rows, context)
        yield LoggedRequest(body["request_id"], body, rows["logit"].to_numpy().astype(np.float64))


def count_requests(pairs: pl.DataFrame) -> int:
    """Return how many requests the pairs belong to."""
    return pairs.select(pl.struct(REQUEST).n_unique()).item() if pairs.height else 0


def request_body(rows: pl.DataFrame, context: Sequence[str]) -> dict[str, Any]:
    """Return the body of `POST /score` for the rows of one logged request; without an id it is `user@time`."""
    user_id, timestamp, request_id = rows.select(REQUEST).row(0)
    columns = {name: rows[name].to_list() for name in context}
    once = {name: values[0] for name, values in columns.items() if len(set(values)) == 1}
    return {
        "user_id": user_id,
        "timestamp": timestamp,
        "request_id": str(request_id) if request_id is not None else f"{user_id}@{timestamp}",
        "candidates": {
            "ad_id": rows["ad_id"].to_list(),
            "context": {name: values for name, values in columns.items() if name not in once},
        },
        "context": once,
    }


def _predictions(path: Path, source: Log) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise PredictionsError(f"{path}: not readable as Parquet: {str(error).splitlines()[0]}") from error
    needed = [*REQUEST, "ad_id", "logit"]
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise PredictionsError(
            f"{path}: no column {missing[0]!r}; predictions come from `longsight evaluate RUN --predictions FILE`"
        )
    if not frame["logit"].dtype.is_float() or not frame["logit"].is_finite().all():
        raise PredictionsError(f"{path}: column 'logit' must hold finite numbers")
    types = source.impressions.schema
    for name in (*REQUEST, "ad_id"):
        if frame[name].dtype not in {types[name], pl.Null}:
            raise PredictionsError(
                f"{path}: column {name!r} is {frame[name].dtype}, in the log it is {types[name]}; "
                "were they made from this log?"
            )
    return frame.select(pl.col(name).cast(types[name]) if name in types else name for name in needed)


def _numbered(frame: pl.DataFrame) -> pl.DataFrame:
    """Add `nth`: how many earlier rows of the same request name the same ad."""
    nth = pl.int_range(pl.len()).over([*REQUEST, "ad_id"])
    return frame.with_columns(nth.alias("nth"))
