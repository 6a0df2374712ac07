"""Being the only process that does something, by a lock that the kernel drops with the process, however it dies."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from service.errors import SlotConflictError


@contextlib.contextmanager
def claimed(lock: Path, *, refusal: str) -> Iterator[None]:
    """Hold the lock on a file, which is made if it is not there.

    Raises:
        SlotConflictError: another process holds it; in the words of `refusal`.
        OSError: the file can't be there.

    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SlotConflictError(refusal) from error
        yield
    finally:
        os.close(descriptor)
