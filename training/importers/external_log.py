"""From CSV files of any size to sorted portions: what the readers of large logs share.

A reader turns a parsed piece of text into records (structured rows with `user` and `timestamp`); they come
back sorted by user and second, a portion of users at a time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contract.errors import InputError, LogError
from contract.files import atomic_folder
from training.full_disk import full_disk
from training.importers.csv_chunks import CsvFile
from training.importers.draws import uniform
from training.importers.memory import MEBIBYTE, Memory
from training.importers.parquet_blocks import ROOM, ROW_GROUP
from training.importers.partitions import Partitions, Records, splitters
from training.splitmix import refuse_bad_seed

Progress: TypeAlias = Callable[[int, int | None, str], None]

MISSING: Final = (1 << 32) - 1
"""Stands for a missing id in a record; no id is as large."""
LAST_SECOND: Final = (1 << 32) - 1
SAMPLE_BLOCKS: Final = 256
SAMPLE_BYTES: Final = 1 << 16
_SHARE_STREAM: Final = 1


@dataclass(frozen=True)
class Sample:
    """Everything of a share of the users, drawn by seed: user by user, so that no list of them is needed."""

    share: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"--user-share {self.share}: expected a number above 0, at most 1")
        refuse_bad_seed(self.seed)

    def keeps(self, users: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Whether each user's rows stay."""
        if self.share == 1:
            return np.ones(len(users), dtype=bool)
        return uniform(self.seed, _SHARE_STREAM, users) < self.share


@dataclass(frozen=True)
class External:
    """How a file is sorted: where its temporary files go, with how much memory, and whom to tell."""

    scratch: Path
    memory: Memory
    progress: Progress

    def frames(self, source: CsvFile) -> Iterator[pl.DataFrame]:
        """Yield a file's parsed pieces, and report how many MiB are read."""
        total = max(source.size // MEBIBYTE, 1)
        label = f"reading {source.path.name} (MiB)"
        self.progress(0, total, label)
        for frame, done in source.chunks(self.memory.chunk_bytes):
            yield frame
            self.progress(min(done // MEBIBYTE, total), total, label)

    def sort(
        self,
        *sources: CsvFile,
        user: str,
        dtype: np.dtype[np.void],
        records: Callable[[pl.DataFrame], Records],
    ) -> Iterator[Records]:
        """Read all of the files at once, then return the sorted portions of what `records` makes of them.

        Args:
            sources: one file or more, of the same columns; for equal users and seconds the earlier comes first.
            user: their column of users.
            dtype: of the records.
            records: turns a parsed piece into records.

        """
        samples = [self._sampled(source, user) for source in sources]
        users = np.concatenate([users for _, users in samples])
        rows = sum(rows for rows, _ in samples)
        parts = Partitions(
            self.scratch / sources[0].path.stem,
            dtype,
            splitters=splitters(users, rows=rows, most_rows=self.memory.rows),
            most_rows=self.memory.rows,
        )
        parts.write(records(frame) for source in sources for frame in self.frames(source))
        return self._portions(parts, f"sorting {sources[0].path.name} (rows)")

    def _portions(self, parts: Partitions, label: str) -> Iterator[Records]:
        done, total = 0, int(parts.rows.sum())
        for portion in parts.sorted_records():
            self.progress(done, total, label)
            yield portion
            done += len(portion)
        self.progress(done, total, label)

    def _sampled(self, source: CsvFile, user: str) -> tuple[int, NDArray[np.uint32]]:
        """Estimate the number of rows, and return users of rows here and there in the file."""
        found: list[NDArray[np.uint32]] = [np.zeros(1, dtype=np.uint32)]
        for frame in source.sample(SAMPLE_BLOCKS, SAMPLE_BYTES):
            drawn = frame[user].drop_nulls()
            found.append(drawn.filter(drawn.is_between(0, MISSING)).cast(pl.UInt32).to_numpy())
        users = np.concatenate(found)
        read = min(source.size, SAMPLE_BLOCKS * SAMPLE_BYTES)
        return source.size * len(users) // max(read, 1), users


@contextmanager
def sorted_on_disk(log: Path, memory: Memory, progress: Progress | None) -> Iterator[tuple[Path, External]]:
    """Yield the folder that becomes the log `log`, whole or not at all, and the sorter whose files lie in it.

    Raises:
        InputError: `log` is something other than a log folder.
        LongsightError: no room on the disk.

    """
    with full_disk(log, remedy=ROOM), atomic_folder(log, marker="schema.toml") as folder:
        scratch = folder / "sorting"
        scratch.mkdir()
        yield folder, External(scratch, memory, progress or (lambda *_: None))
        scratch.rmdir()


def ids(series: pl.Series) -> NDArray[np.uint32]:
    """Return a column of checked ids as 32 bits each, missing ones as MISSING."""
    return series.fill_null(MISSING).cast(pl.UInt32).to_numpy()


def optional_ids(name: str, values: NDArray[np.uint32]) -> pl.Series:
    """Return ids as a column, MISSING as null."""
    series = pl.Series(name, values)
    return series.set(series == MISSING, None)


def codes(series: pl.Series, values: tuple[str, ...]) -> NDArray[np.uint8]:
    """Return the places in `values` of a checked column of texts."""
    return series.cast(pl.Enum(values)).to_physical().cast(pl.UInt8).to_numpy()


def within_calendar(seconds: pl.Series, low: int = 1, high: int = LAST_SECOND) -> NDArray[np.bool_]:
    """Whether each time is one that a record can hold, and inside [low, high]."""
    return seconds.is_between(low, high).to_numpy()


def read_small(external: External, source: CsvFile, key: str) -> pl.DataFrame:
    """Read a table that fits in memory, and refuse it if `key` repeats.

    Raises:
        LogError: no rows, or a key that stands there twice.

    """
    frame = pl.concat(list(external.frames(source)) or [pl.DataFrame({key: []})])
    if frame.is_empty():
        raise LogError(f"{source.path}: no rows")
    again = (~frame[key].is_first_distinct()).arg_true()
    if len(again):
        row = int(again[0])
        raise source.refuse(row + 2, f"column {key!r}: {frame[key][row]} stands there twice")
    return frame


def slices(portion: Records) -> Iterator[Records]:
    """Yield a portion in pieces of at most a row group: as columns, rows take more than twice the memory."""
    for start in range(0, len(portion), ROW_GROUP):
        yield portion[start : start + ROW_GROUP]


def by_user(portion: Records) -> Iterator[Records]:
    """Yield a portion in pieces of about a row group, each with all rows of its users."""
    first = np.flatnonzero(changes(portion, "user"))
    cuts = (
        first[np.searchsorted(first, np.arange(ROW_GROUP, first[-1] + 1, ROW_GROUP))] if len(first) else first
    )
    yield from np.split(portion, np.unique(cuts))


def shown_once(portion: Records, item: str, *, clicked: str = "clicked") -> Records:
    """Return one row for each item of a request, ordered by item: clicked if any of its rows was."""
    keys = (1 - portion[clicked], portion[item], portion["timestamp"], portion["user"])
    ordered = portion[np.lexsort(keys)]
    once: Records = ordered[changes(ordered, "user", "timestamp", item)]
    return once


def changes(portion: Records, *names: str) -> NDArray[np.bool_]:
    """Whether each row differs from the one before it in any of the named fields; the first row does."""
    new = np.ones(len(portion), dtype=bool)
    new[1:] = False
    for name in names:
        new[1:] |= portion[name][1:] != portion[name][:-1]
    return new
