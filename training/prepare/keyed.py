"""Tables sorted by a 64-bit key, of which one range of keys is read without the rest.

Each is a Parquet file with a column `key`; beside it stands where each part begins.
"""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from training.prepare.work import write_array

_GROUP_ROWS: Final = 1 << 16  # of a row group: about what a part reads of a file at a time


def write_keyed(path: Path, frame: pl.DataFrame, edges: NDArray[np.uint64]) -> None:
    """Write a table whose rows ascend by `key`."""
    inner = np.searchsorted(frame["key"].to_numpy(), edges[1:])
    write_array(_bounds(path), np.concatenate([[0], inner, [frame.height]]).astype(np.int64))
    buffer = io.BytesIO()  # written by ourselves: polars does not always pass on what the system said
    frame.write_parquet(buffer, compression="uncompressed", statistics=False, row_group_size=_GROUP_ROWS)
    path.write_bytes(buffer.getbuffer())


def read_part(paths: Sequence[Path], part: int) -> pl.DataFrame:
    """Return the rows of one part out of several tables, table after table, each in its own order."""
    pieces: list[pl.DataFrame] = []
    for path in paths:
        bounds = np.load(_bounds(path), mmap_mode="r")
        first, end = int(bounds[part]), int(bounds[part + 1])
        if end > first or not pieces:  # the first one tells the columns, rows or not
            pieces.append(pl.scan_parquet(path, glob=False).slice(first, end - first).collect())
    return pl.concat(pieces, rechunk=True)


def keyed_frame(columns: dict[str, NDArray[Any]], order: NDArray[np.int64]) -> pl.DataFrame:
    """Return columns `[n]` in the given order as a table."""
    return pl.DataFrame({name: column[order] for name, column in columns.items()})


def distinct_texts(texts: pl.Series, hashed: NDArray[np.uint64]) -> pl.DataFrame:
    """Return `key`, `text` of the distinct ids of a column, by key; nulls (key 0) left out."""
    first = pl.Series(hashed).arg_unique().to_numpy()
    found = hashed[first]
    order = np.argsort(found)
    order = order[found[order] != 0]
    return text_table(found[order], texts.gather(first[order]))


def merged_texts(tables: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Return `key`, `text` of all ids of several tables, each once, by key."""
    return pl.concat(list(tables)).unique("key").sort("key")


def text_table(hashed: NDArray[np.uint64], texts: pl.Series) -> pl.DataFrame:
    """Return ids as a table of `key`, `text`."""
    return pl.DataFrame({"key": hashed, "text": texts.cast(pl.String).alias("text")})


def _bounds(path: Path) -> Path:
    return path.with_suffix(".bounds.npy")
