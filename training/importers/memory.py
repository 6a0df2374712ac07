"""What `--memory` means: how much text is read, and how many rows are sorted, at a time."""

import re
from dataclasses import dataclass
from typing import Final

from contract.errors import InputError

MEBIBYTE: Final = 1 << 20
SMALLEST: Final = 288 * MEBIBYTE
"""Least that is left for rows: with less, files are split again and again."""
PROGRAM: Final = 224 * MEBIBYTE
"""Taken before the first row: the interpreter, numpy, polars and the buffers of the writer (measured)."""
ROW: Final = 160
"""Most bytes that one row takes while its portion is sorted and written (measured: 110 to 150)."""
_UNITS: Final = {"MB": 10**6, "GB": 10**9, "MIB": 1 << 20, "GIB": 1 << 30}


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


def parse_memory(text: str, *, reserved: int = 0) -> Memory:
    """Read `4GB`, `512MiB`, `1.5 GB`; `reserved` bytes of it are not for rows.

    Raises:
        InputError: it is no size, or less than the readers work with.

    """
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?(MB|GB|MIB|GIB)", text.strip().upper())
    if match is None:
        raise InputError(f"--memory {text!r}: expected a size such as 4GB or 800MB")
    size = int(float(match[1]) * _UNITS[match[2]])
    least = SMALLEST + PROGRAM + reserved
    if size < least:
        raise InputError(f"--memory {text}: too little; give at least {least // MEBIBYTE}MiB")
    return Memory(size, reserved)
