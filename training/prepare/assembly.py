"""Last pass: the parts, one behind another, become the files of a dataset."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import polars as pl

from contract.encoder import Array
from contract.log import Log
from contract.vocabulary import NameTable
from training.prepare.catalogue import KIND as ADS
from training.prepare.people import KIND as PEOPLE
from training.prepare.shown import KIND as SHOWN
from training.prepare.work import Work, array_length, write_header

LOGGED: Final = ("user_id", "ad_id", "timestamp", "request_id", "clicked")
_Read: TypeAlias = Callable[[list[Path], str], Iterator[Array]]

_GROUP_ROWS: Final = 1 << 18  # rows of a row group of impressions.parquet


def assemble(folder: Path, source: Log, work: Work) -> None:
    """Write all arrays, names and impressions of a dataset into `folder`."""
    schema = source.schema
    ads, people, shown = work.pieces(ADS)[0], work.pieces(PEOPLE), work.pieces(SHOWN)
    _write(folder / "records.npy", people, _plain)
    _write(folder / "user_keys.npy", people, _plain)
    _write_offsets(folder / "user_offsets.npy", people)
    _write_names(folder, "user", people)
    for field in schema.user:
        _write(folder / f"user_{field.name}.npy", people, _plain)
    for path in sorted(ads.glob("ad*")):
        (folder / path.name).write_bytes(path.read_bytes())
    _write(folder / "requests.npy", people, lambda parts, name: _requests(parts, shown, name))
    for path in sorted(shown[0].glob("row_*.npy")):
        _write(folder / path.name, shown, _plain)
    for vocabulary in schema.vocabularies:
        _write(folder / f"vocabulary_{vocabulary}_keys.npy", people, _plain)
        _write_names(folder, f"vocabulary_{vocabulary}", people)
    _write_impressions(folder / "impressions.parquet", source)


def sampling(work: Work) -> dict[str, Any]:
    """Return what is known of the sampling: the rates of clicked and other rows where they are constant."""
    facts = work.facts(SHOWN)
    if any(fact["null_rate"] is not None for fact in facts):
        return {"known": False}
    found: dict[str, Any] = {"known": True}
    for name in ("clicked", "not_clicked"):
        rates = {rate for fact in facts for rate in fact["rates"][name]}
        found[name] = rates.pop() if len(rates) == 1 else None
    return found


def counts(folder: Path, work: Work) -> dict[str, int]:
    """Return how many there are of everything in a dataset that was just written."""
    facts = work.facts(SHOWN)
    train, validation, test = np.sum([fact["requests"] for fact in facts], axis=0).tolist()
    return {
        "behaviors": array_length(folder / "records.npy"),
        "users": array_length(folder / "user_keys.npy"),
        "ads": array_length(folder / "ad_keys.npy"),
        "requests": train + validation + test,
        "rows": array_length(folder / "row_ad.npy"),
        "clicked": sum(fact["clicked"] for fact in facts),
        "requests_train": train,
        "requests_validation": validation,
        "requests_test": test,
    }


def _plain(parts: list[Path], name: str) -> Iterator[Array]:
    for part in parts:
        yield np.load(part / name)


def _requests(parts: list[Path], shown: list[Path], name: str) -> Iterator[Array]:
    """Yield the requests of each part, their positions counted from the start of the dataset."""
    users = events = rows = 0
    for part, seen in zip(parts, shown, strict=True):
        requests = np.load(part / name)
        requests["user"] += users
        requests["start"] += events
        requests["end"] += events
        requests["first_row"] += rows
        yield requests
        users += array_length(part / "user_keys.npy")
        events += array_length(part / "records.npy")
        rows += array_length(seen / "row_ad.npy")


def _write(path: Path, parts: list[Path], read: _Read) -> None:
    """Write one array out of the arrays of that name in the parts."""
    total = sum(array_length(part / path.name) for part in parts)
    with path.open("wb") as file:
        for index, piece in enumerate(read(parts, path.name)):
            if not index:
                write_header(file, piece.dtype, total)
            file.write(piece.view(np.uint8).data)


def _write_offsets(path: Path, parts: list[Path]) -> None:
    """Write where each user's records begin, `[users + 1]`."""
    users = sum(array_length(part / "user_counts.npy") for part in parts)
    end = 0
    with path.open("wb") as file:
        write_header(file, np.dtype(np.int64), users + 1)
        file.write(np.zeros(1, dtype=np.int64).data)
        for part in parts:
            ends = end + np.cumsum(np.load(part / "user_counts.npy"))
            file.write(ends.data)
            end = int(ends[-1]) if len(ends) else end


def _write_names(folder: Path, name: str, parts: list[Path]) -> None:
    lengths = np.concatenate([np.load(part / f"{name}_lengths.npy") for part in parts])
    blobs = ((part / f"{name}.blob").read_bytes() for part in parts)
    NameTable.write_encoded(folder / f"{name}.names", lengths, blobs)


def _write_impressions(path: Path, source: Log) -> None:
    """Copy the log's own ids, times and labels: predictions are written in its order, with its values and types."""
    scan = source.scan("impressions")
    types = scan.collect_schema()
    empty = types.get("request_id", pl.Null()) == pl.Null
    request = pl.lit(None, dtype=pl.String).alias("request_id") if empty else pl.col("request_id")
    columns = {"timestamp": pl.col("timestamp").cast(pl.Int64), "request_id": request}
    chosen = scan.select(columns.get(name, pl.col(name)) for name in LOGGED)
    chosen.sink_parquet(path, row_group_size=_GROUP_ROWS)
