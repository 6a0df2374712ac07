"""Writes a Parquet file from frames that come one after another, without ever holding more than a few."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import polars as pl
from polars.io.plugins import register_io_source

from contract.errors import LongsightError

ROW_GROUP: Final = 1 << 19
ROOM: Final = "docs/readers.md says how much room the import needs beside the finished log"
"""What an importer says of a full disk."""


def write_blocks(path: Path, schema: pl.Schema, frames: Iterable[pl.DataFrame]) -> None:
    """Write `frames` under each other; the bytes do not depend on how the rows were cut into frames.

    Raises:
        LongsightError: the file can't be written.

    """

    def source(
        with_columns: list[str] | None,
        predicate: pl.Expr | None,
        n_rows: int | None,
        batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        del with_columns, predicate, n_rows, batch_size  # a plain copy asks for everything
        yield from _recut(frames)

    try:
        lazy = register_io_source(source, schema=schema)
        lazy.sink_parquet(path, row_group_size=ROW_GROUP, maintain_order=True)
    except KeyboardInterrupt:
        # polars ends the query and raises, and the interpreter raises for the same key at the next chance it
        # has. Let that be here: otherwise it comes in the middle of what clears up after the first.
        time.sleep(0)
        raise
    except pl.exceptions.PolarsError as error:
        problem = (str(error).splitlines() or [type(error).__name__])[0]
        raise LongsightError(f"{path.name} can't be written: {problem}") from error


def write_frame(path: Path, frame: pl.DataFrame) -> None:
    """Write one frame; see `write_blocks`."""
    write_blocks(path, frame.schema, [frame])


def _recut(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield the same rows in frames of ROW_GROUP rows (the last one has what is left)."""
    rest: pl.DataFrame | None = None
    for frame in frames:
        whole = frame if rest is None else pl.concat([rest, frame])
        end = len(whole) - len(whole) % ROW_GROUP
        for start in range(0, end, ROW_GROUP):
            yield whole[start : start + ROW_GROUP].rechunk()
        rest = whole[end:]
    if rest is not None and len(rest):
        yield rest.rechunk()
