"""uvicorn's HTTP protocol with one write per answer instead of two.

uvicorn writes head and body apart, and uvloop sends each at once: two system calls, two segments, and a caller that is
woken up for a head without a body. Measured: 0.05 ms of a request.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class OneWriteProtocol(HttpToolsProtocol):
    """Speaks HTTP through a `JoiningTransport`.

    Attributes:
        on_lost: called when the connection is gone.

    """

    on_lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Begin to speak on a new connection."""
        super().connection_made(JoiningTransport(transport, self.loop))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever counts connections."""
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()


class JoiningTransport(asyncio.Transport):
    """Holds a write back until the next one, or until the event loop's next turn, whichever is first.

    Args:
        transport: what really writes.
        loop: whose turns are meant.

    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._held = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write with what is held, or hold."""
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held + data)
        else:
            self._held = bytes(data)
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Write what is held and close."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._held = b""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        """Stop delivering data."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Deliver data again."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - asyncio's own
        """Return what the real transport knows."""
        return self._transport.get_extra_info(name, default)

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)
