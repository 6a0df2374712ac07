"""One round trip for the reads of many requests."""

import logging
from collections.abc import Callable
from typing import Final

from contract.keys import key_hex
from service.history.breaker import Breaker
from service.history.connection import Link, pack
from service.history.current import Current
from service.history.read import Read
from service.layout import Layout

PING: Final = pack(b"PING")
PONG: Final = [b"PONG"]
COMPLAIN_EVERY_S: Final = 60.0

logger = logging.getLogger(__name__)


class Pipeline:
    """Round trips over one connection, one after another.

    Args:
        link: the connection.
        current: what need not be read.
        breaker: told how long each answer took.
        timeout_s: an answer that takes longer is a failure.
        clock: monotonic seconds.

    """

    def __init__(
        self, link: Link, current: Current, breaker: Breaker, *, timeout_s: float, clock: Callable[[], float]
    ) -> None:
        self._link = link
        self._current = current
        self._breaker = breaker
        self._timeout_s = timeout_s
        self._clock = clock
        self._complain_from = 0.0
        self._began_s: float | None = None

    async def run(self, reads: list[Read], unfinished: set[Read], layout: Layout) -> None:
        """Do what the reads need next; each leaves `unfinished` when its part has arrived.

        Raises:
            LinkError: the connection was lost.

        """
        confirms = [read for read in reads if read.confirms is not None]
        asks = [read for read in reads if read.confirms is None]
        self._began_s = self._clock()
        self._current.begin()
        self._link.send(b"".join([PING] * bool(confirms) + [read.commands(layout) for read in asks]))
        try:
            if confirms:
                told_all = await self._replies(1) == PONG
                for read in confirms:
                    unfinished.discard(read)
                    self._confirm(read, told_all=told_all)
            for read in asks:
                replies = await self._replies(read.expected)
                unfinished.discard(read)
                if not read.answer.done():
                    self._take(read, replies)
        finally:
            self._current.end()

    async def _replies(self, count: int) -> list[object]:
        """Wait for replies; the first tells how the store does, later ones also wait for our own reading."""
        replies = await self._link.replies(count)
        if self._began_s is not None:
            late = self._clock() - self._began_s > self._timeout_s
            self._began_s = None
            (self._breaker.failed if late else self._breaker.succeeded)()
        return replies

    def _confirm(self, read: Read, *, told_all: bool) -> None:
        """All that the server had to tell has arrived: the mark is current, or the next round trip reads."""
        mark, read.confirms = read.confirms, None
        assert mark is not None, "nothing to confirm: this is a bug"
        current = self._current.answer(read.user_key, mark, whole=read.whole) if told_all else None
        if current is not None:
            read.finish(current)

    def _take(self, read: Read, replies: list[object]) -> None:
        read.take(replies)
        if read.complaint:
            self._complain(read)
        if read.unchanged is not None and self._link.tracked:
            self._current.note(read.user_key, *read.unchanged, whole=read.whole)

    def _complain(self, read: Read) -> None:
        """Log a value that can't be read, one a minute: the key is for the person on call."""
        now = self._clock()
        if now >= self._complain_from:
            self._complain_from = now + COMPLAIN_EVERY_S
            logger.error("history of user %s can't be read: %s", key_hex(read.user_key), read.complaint)
