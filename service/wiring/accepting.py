"""Shares the connections of one listening socket evenly among the workers.

Left alone, whichever worker's loop comes first takes every connection that waits, and keep-alive callers stay where
they are: of 16 connections one worker may get 12, and the other's core is idle. Measured with two workers on two
cores: 1,406 requests/s with such a split, 1,910 with an even one.

A worker that has more connections than another steps aside for a moment; whoever has fewest takes the connection then.
If nobody does, it takes the connection itself, so that a worker that hangs keeps nobody out.
"""

import asyncio
import errno
import logging
import mmap
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

ASIDE_S: Final = 0.005
PAUSE_S: Final = 1.0  # after an error such as too many open files
FILE: Final = "connections-"
SIZE: Final = 4

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

logger = logging.getLogger(__name__)


class Shares:
    """How many connections each worker has; every worker writes its own file and maps those of the others.

    Args:
        folder: of the workers of one socket.

    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / f"{FILE}{os.getpid()}"
        self._path.write_bytes(bytes(SIZE))
        self._own = _mapped(self._path, write=True)
        self._others: list[mmap.mmap] = []
        self._seen_ns = 0
        self.mine = 0

    def change(self, by: int) -> None:
        """Count connections that came or went."""
        self.mine += by
        self._own[:] = self.mine.to_bytes(SIZE, "little")

    def is_fair(self) -> bool:
        """Whether nobody has fewer connections than this worker."""
        changed_ns = self._folder.stat().st_mtime_ns  # files come and go with workers
        if changed_ns != self._seen_ns:
            self._seen_ns = changed_ns
            self._look()
        return all(int.from_bytes(other[:], "little") >= self.mine for other in self._others)

    def close(self) -> None:
        """Have no share any more."""
        self._path.unlink(missing_ok=True)

    def _look(self) -> None:
        self._others = []
        for path in self._folder.glob(f"{FILE}*"):
            if path != self._path:
                try:
                    self._others.append(_mapped(path, write=False))
                except (OSError, ValueError):  # it has just gone, or has just come
                    continue


class Acceptor:
    """Accepts for one worker, in the place of the event loop's own server.

    Args:
        listener: shared with other workers; made non-blocking.
        make_protocol: called with what to call when its connection is lost.
        shares: of all workers.

    """

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[Callable[[], None]], asyncio.Protocol],
        shares: Shares,
    ) -> None:
        listener.setblocking(False)  # noqa: FBT003 - socket's own
        self._listener = listener
        self._make_protocol = make_protocol
        self._shares = shares
        self._loop = asyncio.get_running_loop()
        self._later: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[object]] = set()
        self._loop.add_reader(listener, self._readable)

    def close(self) -> None:
        """Accept no more; what is open stays so."""
        if self._later is not None:
            self._later.cancel()
        self._loop.remove_reader(self._listener)
        self._shares.close()

    async def wait_closed(self) -> None:
        """Return at once: nothing is under way once it is closed."""

    def _readable(self) -> None:
        if self._shares.is_fair():
            self._accept()
        else:
            self._step_aside(ASIDE_S)

    def _step_aside(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._later = self._loop.call_later(seconds, self._come_back)

    def _come_back(self) -> None:
        self._later = None
        self._loop.add_reader(self._listener, self._readable)
        self._accept()

    def _accept(self) -> None:
        """Take one connection, if one waits still: the next turn of the loop looks for more."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            logger.error("no connection can be accepted: %s", error.strerror)  # noqa: TRY400 - it says all
            if self._later is None:
                self._step_aside(PAUSE_S)
            return
        connection.setblocking(False)  # noqa: FBT003 - socket's own
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._shares.change(1)
        opening = self._loop.create_task(self._open(connection))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: self._make_protocol(self._lost), connection)
        except OSError:  # it was closed at once
            self._lost()
            connection.close()

    def _lost(self) -> None:
        self._shares.change(-1)


def forget_share(folder: Path, pid: int) -> None:
    """Remove the share of a worker that died."""
    (folder / f"{FILE}{pid}").unlink(missing_ok=True)


def _mapped(path: Path, *, write: bool) -> mmap.mmap:
    with path.open("r+b" if write else "rb") as file:
        return mmap.mmap(file.fileno(), SIZE, access=mmap.ACCESS_WRITE if write else mmap.ACCESS_READ)
