"""The folder that the processes of one service share while they live; what a killed service left goes at a next start.

Every process of the service holds a shared lock on the folder, which the kernel drops with the process, however it
dies: a folder whose lock is free has no owner. Whoever cleans up old temporary files leaves locked folders alone too.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PREFIX: Final = "longsight-service-"

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def exchange_folder() -> Iterator[Path]:
    """Yield a folder for the processes of one service, and remove those whose services are gone."""
    _remove_abandoned(Path(tempfile.gettempdir()))
    with contextlib.ExitStack() as stack:
        folder = _new_folder(stack)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


@contextlib.contextmanager
def present(folder: Path) -> Iterator[bool]:
    """Be one of the folder's processes; False: it is being removed, or is gone."""
    try:
        lock = os.open(folder, _FOLDER)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _shared(lock) and _is_at(lock, folder)
    finally:
        os.close(lock)


def _new_folder(stack: contextlib.ExitStack) -> Path:
    """Return an empty folder that is ours until the stack ends."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        # a service that starts now may have found it without an owner between the lines: then once more
        if stack.enter_context(present(folder)):
            return folder


def _shared(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(lock: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), folder.stat())
    except FileNotFoundError:
        return False


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # it is another user's, in use, or has just gone
            lock = os.open(folder, _FOLDER)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
