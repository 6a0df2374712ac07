"""Tells a full disk from other errors, whoever met it first: Python, numpy or polars."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from contract.errors import LongsightError
from contract.files import atomic_file

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_IN_TEXT: Final = re.compile(r"os error (\d+)")  # polars wraps the system's error in a sentence


def full_disk_code(error: BaseException | None) -> int | None:
    """Return the system's code if that is why it refused to write more, whoever met it first."""
    while error is not None:
        wrapped = _IN_TEXT.search(str(error))
        code = int(wrapped[1]) if wrapped else getattr(error, "errno", None)
        if code in _FULL:
            return code
        error = error.__cause__
    return None


@contextmanager
def full_disk(target: Path, *, remedy: str, left: str = "nothing was left there") -> Iterator[None]:
    """Turn a write that finds no room into one line that says what is left under `target`.

    Args:
        target: the folder or file that is written.
        remedy: last words of the line.
        left: what is there now.

    Raises:
        LongsightError: there was no room.

    """
    try:
        yield
    except Exception as error:
        code = full_disk_code(error)
        if code is None:
            raise
        raise LongsightError(f"{target} can't be written: {os.strerror(code)}; {left} ({remedy})") from error


@contextmanager
def file_on_a_disk(target: Path) -> Iterator[Path]:
    """Yield the path that becomes `target` once it is whole (`atomic_file`); a full disk is one line.

    Raises:
        InputError: no file can be there.
        LongsightError: there was no room.

    """
    words = {"remedy": "free space on its disk, or give another file", "left": "an older file there stays"}
    with full_disk(target, **words), atomic_file(target) as temporary:
        yield temporary
