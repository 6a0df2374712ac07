"""What `--memory` means: how much text is read, and how many rows are sorted, at a time."""

from dataclasses import dataclass
from typing import Final

from contract.errors import InputError

MEBIBYTE: Final = 1 << 20
MEGABYTE: Final = 10**6
DEFAULT_MEMORY: Final = 4_000 * MEGABYTE
SMALLEST: Final = 260 * MEGABYTE
"""Least that is left for rows: with less, files are split again and again."""
PROGRAM: Final = 240 * MEGABYTE
"""Taken before the first row: the interpreter, numpy, polars and the buffers of the writer (measured)."""
ROW: Final = 176
"""Most bytes that one row takes while its portion is sorted and written (measured: about 120)."""


@dataclass(frozen=True)
class Memory:
    """How a bound on the resident memory, in bytes, is spent."""

    size: int
    reserved: int = 0
    """Taken by something that grows with neither the text nor the rows sorted at a time."""

    @property
    def chunk_bytes(self) -> int:
        """Bytes of text parsed at a time."""
        return max(MEBIBYTE, min(16 * MEBIBYTE, self._left // 32))

    @property
    def rows(self) -> int:
        """Rows sorted at a time."""
        return self._left // ROW

    @property
    def _left(self) -> int:
        return self.size - PROGRAM - self.reserved


def memory_of(size: int, *, reserved: int = 0) -> Memory:
    """Return how `size` bytes are spent when `reserved` of them are not for rows.

    Raises:
        InputError: it is less than the readers work with.

    """
    least = SMALLEST + PROGRAM + reserved
    if size < least:
        raise InputError(f"--memory {size:,} bytes is too little; give {-(-least // MEGABYTE)}MB or more")
    return Memory(size, reserved)
