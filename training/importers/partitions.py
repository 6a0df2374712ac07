"""Sorts more records by (user, timestamp) than memory holds: scattered into files by user, sorted file by file.

A file holds the users between two splitters, so that the files one after another are sorted too, and the
result does not depend on how many there were. Records of one user and second keep the order they came in.
"""

from collections.abc import Iterable, Iterator
from io import RawIOBase
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from contract.errors import InputError

Records: TypeAlias = NDArray[np.void]
"""Structured rows with the fields `user` and `timestamp` (both u4) and whatever else they carry."""

MOST_FILES: Final = 200
"""Open at a time; a process may usually have 1,024."""
FILL: Final = 0.6
"""Share of the rows sorted at a time that a file is planned to hold: a sample only estimates where to cut."""
SAMPLE: Final = 1 << 20


class Partitions:
    """Records on disk in the order of their users.

    Args:
        folder: where the files go; created, and removed by `sorted_records`.
        dtype: of the records.
        splitters: users, ascending: where one file ends and the next begins.
        most_rows: rows that may be sorted at a time; a fuller file is split once more.

    """

    def __init__(
        self, folder: Path, dtype: np.dtype[np.void], *, splitters: NDArray[np.uint32], most_rows: int
    ) -> None:
        folder.mkdir()
        self._folder, self._dtype, self._most_rows = folder, dtype, most_rows
        self._splitters = splitters
        self.rows = np.zeros(len(splitters) + 1, dtype=np.int64)
        """Records in each file."""

    def write(self, portions: Iterable[Records]) -> None:
        """Scatter all portions; once only."""
        files = [self._path(place).open("wb", buffering=0) for place in range(len(self.rows))]
        try:
            for records in portions:
                place = np.searchsorted(self._splitters, records["user"], side="right")
                counts = np.bincount(place, minlength=len(self.rows))
                ordered = records[np.argsort(place.astype(np.uint16), kind="stable")]
                self.rows += counts
                for index, part in enumerate(np.split(ordered, np.cumsum(counts)[:-1])):
                    if len(part):
                        _write_all(files[index], part)
        finally:
            for file in files:
                file.close()

    def sorted_records(self) -> Iterator[Records]:
        """Yield every record, file by file; each yield holds all records of its users. Removes the files.

        Raises:
            InputError: one user has more records than are sorted at a time.

        """
        for place, rows in enumerate(self.rows):
            if rows > self._most_rows:
                yield from self._split(place)
            elif rows:
                records = np.fromfile(self._path(place), dtype=self._dtype)
                self._path(place).unlink()
                yield _sorted(records)
            else:
                self._path(place).unlink()
        self._folder.rmdir()

    def _split(self, place: int) -> Iterator[Records]:
        """Sort one file that is too full by splitting it into files of its own."""
        path, rows = self._path(place), int(self.rows[place])
        users = np.concatenate(
            [
                block["user"][:: max(rows // SAMPLE, 1)]
                for block in _blocks(path, self._dtype, self._most_rows)
            ]
        )
        middle = splitters(users, rows=rows, most_rows=self._most_rows)
        # Both sides of each: a user with very many records gets a file of his own.
        middle = np.union1d(middle, middle + 1).astype(np.uint32)
        inner = Partitions(
            self._folder / f"{place}.parts", self._dtype, splitters=middle, most_rows=self._most_rows
        )
        inner.write(_blocks(path, self._dtype, self._most_rows))
        path.unlink()
        if inner.rows.max() == rows:
            raise InputError(
                f"user {users[0]} has {rows:,} rows, and {self._most_rows:,} are sorted at a time; give more --memory"
            )
        yield from inner.sorted_records()

    def _path(self, place: int) -> Path:
        return self._folder / f"{place}.records"


def splitters(users: NDArray[np.uint32], *, rows: int, most_rows: int) -> NDArray[np.uint32]:
    """Return the users at which to cut so that each file of `rows` records in all holds about FILL * `most_rows`.

    Args:
        users: of a sample of the records; at least one.
        rows: how many records there are, or are thought to be.
        most_rows: rows sorted at a time.

    """
    files = min(max(int(np.ceil(rows / (most_rows * FILL))), 2), MOST_FILES // 2)
    ordered = np.sort(users)
    return np.unique(ordered[np.arange(1, files) * len(ordered) // files])


def _sorted(records: Records) -> Records:
    key = records["user"].astype(np.uint64) << np.uint64(32) | records["timestamp"]
    return records[np.argsort(key, kind="stable")]


def _blocks(path: Path, dtype: np.dtype[np.void], rows: int) -> Iterator[Records]:
    with path.open("rb") as file:
        while len(block := np.fromfile(file, dtype=dtype, count=max(rows // 4, 1))):
            yield block


def _write_all(file: RawIOBase, records: Records) -> None:
    """Write to an unbuffered file, which may take less than it is given."""
    view = memoryview(records.tobytes())
    while view:
        view = view[file.write(view) or 0 :]
