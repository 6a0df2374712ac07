"""The file of one process: appended to, closed at a size, the last few kept. Only whole lines, whatever the disk does.

Several processes that are given one path each take a file of their own: `capture.jsonl`, `capture-2.jsonl`, ... The
first whose lock is free is a process's, so a restart goes on with the same files. Those before the live one are
`capture.jsonl.1`, the newest, and so on.
"""

import contextlib
import fcntl
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from service.capture.record import HEAD, CaptureError

OWNER_ONLY: Final = 0o600
BLOCK: Final = 1 << 16


class CaptureFile:
    """Appends lines to a rotating file that nobody else writes.

    Args:
        path: of the first process's file.
        max_bytes: a file is closed when the next lines would make it larger.
        files: how many are kept, the live one included.

    Raises:
        CaptureError: `path` can't be written, or names something else.

    """

    def __init__(self, path: Path, *, max_bytes: int, files: int) -> None:
        self._max_bytes = max_bytes
        self._files = files
        self._file = -1
        self._size = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.path, self._lock = _claimed(path.absolute())
            try:
                self._open()
            except BaseException:
                os.close(self._lock)
                raise
        except OSError as error:
            raise CaptureError(f"{path} can't be written: {error.strerror}; give another place") from error

    def append(self, lines: bytes) -> None:
        """Write whole lines, all of them or none.

        Raises:
            OSError: they could not be written, and are not.
            CaptureError: something else stands there now.

        """
        if not self._is_live():  # moved away or removed by others
            self._open()
        if self._size and self._size + len(lines) > self._max_bytes:
            self._rotate()
        left = memoryview(lines)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(lines)

    def close(self) -> None:
        """Close the file and leave it to the next process."""
        os.close(self._file)
        os.close(self._lock)

    def _open(self) -> None:
        """Open the live file at its last whole line: a crash may have cut one."""
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY)
        try:
            _refuse_foreign(file, self.path)
            os.fchmod(file, OWNER_ONLY)
            size = _whole_lines(file)
            if size < os.fstat(file).st_size:
                os.ftruncate(file, size)
        except BaseException:
            os.close(file)
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file, self._size = file, size

    def _is_live(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file), self.path.stat())
        except FileNotFoundError:
            return False

    def _rotate(self) -> None:
        names = [self.path, *(self.path.with_name(f"{self.path.name}.{n}") for n in range(1, self._files))]
        for older, newer in itertools.pairwise(reversed(names)):  # the oldest is replaced
            with contextlib.suppress(FileNotFoundError):
                newer.replace(older)
        self._open()


def _claimed(path: Path) -> tuple[Path, int]:
    """Return the first file that no other process has, and the lock that says so; the kernel drops it with us."""
    for mine in _names(path):
        lock = os.open(
            mine.with_name(f".{mine.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY
        )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        except BaseException:
            os.close(lock)
            raise
        return mine, lock
    raise AssertionError


def _names(path: Path) -> Iterator[Path]:
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def _refuse_foreign(file: int, path: Path) -> None:
    """Refuse to append to, or cut, what is no file of captures."""
    if not stat.S_ISREG(os.fstat(file).st_mode):
        raise CaptureError(f"{path} is no regular file; give another name")
    begin = os.pread(file, len(HEAD), 0)
    if begin != HEAD[: len(begin)]:
        raise CaptureError(f"{path} holds something other than captured requests; give another name")


def _whole_lines(file: int) -> int:
    """Return the size of a file up to the end of its last whole line."""
    end = os.fstat(file).st_size
    while end:
        begin = max(0, end - BLOCK)
        at = os.pread(file, end - begin, begin).rfind(b"\n")
        if at >= 0:
            return begin + at + 1
        end = begin
    return 0
