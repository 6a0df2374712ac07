"""Tells a full disk from other errors, whoever met it first: Python, numpy or polars."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from contract.errors import LongsightError

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
def full_disk(log: Path, *, remedy: str) -> Iterator[None]:
    """Turn a write that finds no room into one line that says what is left under `log`: nothing.

    Args:
        log: the folder that is written.
        remedy: last words of the line.

    Raises:
        LongsightError: there was no room.

    """
    try:
        yield
    except Exception as error:
        code = full_disk_code(error)
        if code is None:
            raise
        raise LongsightError(
            f"{log} can't be written: {os.strerror(code)}; nothing was left there ({remedy})"
        ) from error
