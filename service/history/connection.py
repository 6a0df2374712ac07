"""One connection to Redis for pipelined exchanges: bytes of many commands out, their replies back one by one.

redis-py opens it (URL, password, TLS, database); then the transport is taken over, since its client classes, streams
and coroutines cost more per read than the read itself. Everything that can go wrong with the connection is a
`LinkError`; a command that Redis refused is a value, so that one bad key does not spoil the others of its pipeline.

With a listener the connection speaks RESP3 and the server tells, between the replies, which keys read over it have
changed since. A server that can't, or may not, is used without.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import hiredis
from redis.asyncio import Connection, ConnectionPool
from redis.exceptions import RedisError, ResponseError

from contract.errors import InputError
from service.layout import without_password

OnChanged: TypeAlias = Callable[[Sequence[bytes] | None], None]

TRACK_AGAIN_S: Final = (60.0, 3600.0)
"""Shortest and longest pause between attempts to have changes told."""
_CRLF: Final = b"\r\n"

logger = logging.getLogger(__name__)


class LinkError(Exception):
    """The connection could not be made, or is gone."""


class Link:
    """A connection that is opened, used by one task at a time, and dropped when in doubt.

    Args:
        url: redis://, rediss:// or unix:// URL.
        connect_timeout_s: longest wait for the connection and its greeting.
        on_changed: told the names of keys that have changed since they were read over the connection, or None for
            all; None = nobody wants to know.
        clock: monotonic seconds.

    Attributes:
        tracked: the server tells.

    Raises:
        InputError: `url` is no such URL.

    """

    def __init__(
        self,
        url: str,
        *,
        connect_timeout_s: float,
        on_changed: OnChanged | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tracked = False
        self._on_changed = on_changed
        self._clock = clock
        self._greeting = False  # whether HELLO is under way
        self._track_from_s = -math.inf
        self._pause_s = TRACK_AGAIN_S[0]
        self._complaint = ""
        self._connect_timeout_s = connect_timeout_s
        try:
            self._pool = ConnectionPool.from_url(
                url, protocol=2, socket_timeout=None, socket_connect_timeout=connect_timeout_s
            )
        except ValueError as error:
            raise InputError(f"{without_password(url)}: not a Redis URL: {error}") from error
        self._connection: Connection | None = None
        self._replies = _Replies(on_changed)

    @property
    def connected(self) -> bool:
        """Whether there is a connection; it may turn out to be dead on the next use."""
        return self._connection is not None

    @property
    def could_track(self) -> bool:
        """Whether another connection is worth a try, since this one is not tracked and the last failure is long ago."""
        return not self.tracked and self._on_changed is not None and self._clock() >= self._track_from_s

    async def connect(self) -> None:
        """Open the connection.

        Raises:
            LinkError: it could not be opened in time.

        """
        connection: Connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        self._greeting = False
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
                await self._take_over(connection)
        except BaseException as error:
            await connection.disconnect(nowait=True)
            why = _one_line(error) or f"no connection within {self._connect_timeout_s} s"
            if self._greeting and isinstance(error, (LinkError, OSError)):
                self._put_off(_one_line(error) or "no answer to HELLO 3")
            if isinstance(error, (RedisError, OSError)):
                raise LinkError(why) from error
            raise
        self._connection = connection

    async def _take_over(self, connection: Connection) -> None:
        writer = connection._writer  # noqa: SLF001 - nothing public leads to the transport
        assert writer is not None, "connected without a writer: this is a bug of redis-py"
        self._replies = _Replies(self._on_changed)
        self._replies.take_over(writer.transport)
        self.tracked = False
        if self.could_track:
            await self._track()

    async def _track(self) -> None:
        """Have the server tell what changes, if it can; raises LinkError if the connection does not survive that."""
        self._greeting = True
        reply = hello = await self._reply_to(b"HELLO", b"3")
        if isinstance(hello, dict) and hello.get(b"proto") == 3:
            reply = await self._reply_to(b"CLIENT", b"TRACKING", b"ON")
            self.tracked = reply == b"OK"
        self._greeting = False
        if self.tracked:
            self._pause_s, self._complaint = TRACK_AGAIN_S[0], ""
        else:
            self._put_off(str(reply))

    def _put_off(self, why: str) -> None:
        """Do without for a while, and say why."""
        self._greeting = False
        self._track_from_s = self._clock() + self._pause_s
        self._pause_s = min(2 * self._pause_s, TRACK_AGAIN_S[1])
        if why != self._complaint:
            self._complaint = why
            logger.warning("the store can't tell what changes, so every request asks it: %s", why)

    async def _reply_to(self, *arguments: bytes) -> object:
        self._replies.send(pack(*arguments))
        [reply] = await self._replies.next(1)
        return reply

    def send(self, commands: bytes) -> None:
        """Write packed commands (see `pack`).

        Raises:
            LinkError: the connection is gone.

        """
        self._replies.send(commands)

    async def replies(self, count: int) -> list[object]:
        """Return the next replies (bytes, int, list or None); a `ResponseError` stands for a command Redis refused.

        Raises:
            LinkError: the connection is gone.

        """
        return await self._replies.next(count)

    async def drop(self) -> None:
        """Close the connection, whatever its state; replies still on their way are lost with it."""
        connection, self._connection = self._connection, None
        self._replies.abandon()
        if connection is not None:
            await connection.disconnect(nowait=True)


class _Replies(asyncio.Protocol):
    """Parses what arrives; one task at a time waits for the next replies."""

    def __init__(self, on_changed: OnChanged | None) -> None:
        self._on_changed = on_changed
        self._reader = hiredis.Reader(protocolError=LinkError, replyError=ResponseError)
        self._parsed: deque[object] = deque()
        self._transport: asyncio.WriteTransport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._wanted = 0
        self._lost = "the connection is closed"

    def take_over(self, transport: asyncio.WriteTransport) -> None:
        """Become the protocol of an open connection on which nothing is under way."""
        self._transport = transport
        transport.set_protocol(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self._lose(_one_line(exc) if exc else "the store closed the connection")

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, and wake who waits for that much."""
        reader = self._reader
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not False:
                if type(reply) is hiredis.PushNotification:
                    self._pushed(reply)
                else:
                    self._parsed.append(reply)
        except LinkError as error:
            self._lose(_one_line(error))
        if len(self._parsed) >= self._wanted:
            self._notify()

    def send(self, commands: bytes) -> None:
        """Write; raises LinkError if the connection is gone."""
        if self._transport is None:
            raise LinkError(self._lost)
        self._transport.write(commands)

    async def next(self, count: int) -> list[object]:
        """Return the next replies; raises LinkError if they can't come any more."""
        while len(self._parsed) < count:
            if self._transport is None:
                raise LinkError(self._lost)
            self._wanted = count
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return [self._parsed.popleft() for _ in range(count)]

    def _pushed(self, message: hiredis.PushNotification) -> None:
        if message[0] == b"invalidate" and self._on_changed is not None:
            self._on_changed(message[1])

    def abandon(self) -> None:
        """Expect nothing more."""
        self._lose("the connection is closed")

    def _lose(self, why: str) -> None:
        self._lost = why
        self._transport = None
        if self._on_changed is not None:
            self._on_changed(None)  # nobody would tell what changes from now on
        self._notify()

    def _notify(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def pack(*arguments: bytes) -> bytes:
    """Return one command in Redis's wire format."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        parts += (b"$%d\r\n" % len(argument), argument, _CRLF)
    return b"".join(parts)


def _one_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else ""
