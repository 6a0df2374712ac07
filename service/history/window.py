"""Which bytes of a user's value to read until L records before the request's time are at hand. No connection here.

The newest n = L + 64 records are read first. If fewer than L of them lie before the request's time and older ones
remain, the preceding chunk is read, twice as long each time, until there are L or the start is reached.

Offsets count from the end of the value, and the value may be appended to, inserted into or trimmed between two reads,
which moves them. So each chunk overlaps by one record what is already held; a record's bytes are unique within a user
(identical ones are never stored twice), so an overlap that agrees proves that the chunk is the run just before. If it
disagrees, everything held is dropped and the whole length is read anew in one piece.
"""

from typing import Final

import numpy as np

from contract.records import Records, count_before

MULTIPLE_OF: Final = "its length is not a multiple of the record's"
NOT_SORTED: Final = "its records are not in the order of time"


class DamagedValueError(Exception):
    """The bytes under a user's key are no packed history of this layout."""


class Window:
    """The reads of one request.

    Args:
        dtype: of a packed record.
        wanted: L, records wanted before `cut`.
        first: n, records of the first read.
        cut: exclusive end in seconds: the request's time less the history lag.

    """

    __slots__ = ("_chunk", "_cut", "_data", "_dtype", "_overlaps", "_size", "_wanted", "reads")

    def __init__(self, dtype: np.dtype[np.void], *, wanted: int, first: int, cut: int) -> None:
        self._dtype = dtype
        self._size = dtype.itemsize
        self._wanted = wanted
        self._chunk = first
        self._cut = cut
        self._data = b""
        self._overlaps = False
        self.reads = 0

    @property
    def held(self) -> Records:
        """All records that were read, oldest first."""
        return np.frombuffer(self._data, dtype=self._dtype)

    @property
    def byte_range(self) -> tuple[int, int]:
        """Start and inclusive end of the next GETRANGE, both counted from the end of the value (-1 = last byte)."""
        held = len(self._data) // self._size
        start = -(held + self._chunk) * self._size
        return start, (1 - held) * self._size - 1 if self._overlaps else -1

    def take(self, data: bytes, total_bytes: int | None) -> Records | None:
        """Take what the read returned; return the records, at most L, oldest first, or None: read on.

        Args:
            data: the bytes in `byte_range`.
            total_bytes: length of the whole value, if it was asked for.

        Raises:
            DamagedValueError: the value is no packed history.

        """
        self.reads += 1
        if total_bytes is not None and total_bytes % self._size:
            raise DamagedValueError(MULTIPLE_OF)
        if self._overlaps and data[-self._size :] != self._data[: self._size]:
            self._start_over()
            return None
        if len(data) % self._size:
            raise DamagedValueError(MULTIPLE_OF)
        fresh = data[: -self._size] if self._overlaps else data
        at_start = len(fresh) < self._chunk * self._size
        self._data = fresh + self._data if self._overlaps else fresh
        records = np.frombuffer(self._data, dtype=self._dtype)
        before = self._before_cut(records)
        if before >= self._wanted or at_start:
            return records[max(0, before - self._wanted) : before]
        self._read_on()
        return None

    def _before_cut(self, records: Records) -> int:
        times = records["timestamp"].copy()  # contiguous: the two passes below are ten times faster
        if (times[1:] < times[:-1]).any():
            raise DamagedValueError(NOT_SORTED)
        return count_before(times, self._cut)

    def _read_on(self) -> None:
        self._chunk = self._chunk * 2 if self._overlaps else self._chunk
        self._overlaps = True

    def _start_over(self) -> None:
        self._chunk += len(self._data) // self._size
        self._data = b""
        self._overlaps = False
