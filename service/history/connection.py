"""One connection to Redis for pipelined exchanges: bytes of many commands out, their replies back one by one.

redis-py opens it (URL, password, TLS, database); above that its client classes are passed by, since they cost more per
read than the read itself. Everything that can go wrong with the connection is a `LinkError`; a command that Redis
refused is a value, so that one bad key does not spoil the others of its pipeline.
"""

import asyncio
import math
from typing import Final

from redis.asyncio import Connection, ConnectionPool
from redis.exceptions import RedisError, ResponseError

from contract.errors import InputError
from service.layout import without_password

_CRLF: Final = b"\r\n"


class LinkError(Exception):
    """The connection could not be made, or is gone."""


class Link:
    """A connection that is opened, used by one task at a time, and dropped when in doubt.

    Args:
        url: redis://, rediss:// or unix:// URL.
        connect_timeout_s: longest wait for the connection and its greeting.

    Raises:
        InputError: `url` is no such URL.

    """

    def __init__(self, url: str, *, connect_timeout_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        try:
            self._pool = ConnectionPool.from_url(
                url, protocol=2, socket_timeout=None, socket_connect_timeout=connect_timeout_s
            )
        except ValueError as error:
            raise InputError(f"{without_password(url)}: not a Redis URL: {error}") from error
        self._connection: Connection | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection; it may turn out to be dead on the next use."""
        return self._connection is not None

    async def connect(self) -> None:
        """Open the connection.

        Raises:
            LinkError: it could not be opened in time.

        """
        connection: Connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as error:
            raise LinkError(
                _one_line(error) or f"no connection within {self._connect_timeout_s} s"
            ) from error
        self._connection = connection

    async def send(self, commands: bytes) -> None:
        """Write packed commands (see `pack`).

        Raises:
            LinkError: the connection is gone.

        """
        assert self._connection is not None
        try:
            await self._connection.send_packed_command(commands, check_health=False)
        except (RedisError, OSError) as error:
            raise LinkError(_one_line(error)) from error

    async def reply(self) -> object:
        """Return the next reply (bytes, int, list or None), or the `ResponseError` that Redis answered with.

        Raises:
            LinkError: the connection is gone.

        """
        assert self._connection is not None
        try:
            # refused commands must not cost the connection: other requests wait behind them
            return await self._connection.read_response(timeout=math.inf, disconnect_on_error=False)
        except ResponseError as error:
            return error
        except (RedisError, OSError) as error:
            raise LinkError(_one_line(error)) from error

    async def drop(self) -> None:
        """Close the connection, whatever its state; replies still on their way are lost with it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


def pack(*arguments: bytes) -> bytes:
    """Return one command in Redis's wire format."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        parts += (b"$%d\r\n" % len(argument), argument, _CRLF)
    return b"".join(parts)


def _one_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else ""
