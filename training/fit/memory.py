"""Lets the allocator keep what a step frees, for the next step."""

import ctypes
from typing import Final

_TRIM_THRESHOLD: Final = -1  # numbers of mallopt(3)
_MMAP_THRESHOLD: Final = -3
_BYTES: Final = 1 << 30
_BYTES_OF_OLDER_GLIBC: Final = 1 << 25


def keep_freed_memory() -> None:
    """Tell glibc to hold on to freed blocks of up to 1 GiB, for the whole process; elsewhere, do nothing.

    A step makes and frees tensors of some MB each. By default glibc gives such blocks back to the system,
    and every step pays for thousands of fresh pages: a sixth of TIN's time at L = 1000, U = 64.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_TRIM_THRESHOLD, _BYTES)
    if not mallopt(_MMAP_THRESHOLD, _BYTES):
        mallopt(_MMAP_THRESHOLD, _BYTES_OF_OLDER_GLIBC)
