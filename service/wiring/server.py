"""uvicorn's server, as a worker runs it: signals are the worker's, and connections are shared with other workers."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from service.wiring.accepting import Acceptor, Shares
from service.wiring.protocol import OneWriteProtocol


class Server(uvicorn.Server):
    """uvicorn without its signal handling, which ends the process by the signal instead of with exit code 0.

    Args:
        config: of uvicorn; its protocol is `OneWriteProtocol`.
        shares: folder of the workers that share the socket; None = this one is alone.

    """

    def __init__(self, config: uvicorn.Config, *, shares: Path | None) -> None:
        super().__init__(config)
        self._shares = shares

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the worker."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        if self._shares is None or not sockets:
            await super().startup(sockets)
            return
        await super().startup([])
        acceptor: Any = Acceptor(sockets[0], self._protocol, Shares(self._shares))
        self.servers = [acceptor]  # uvicorn closes it, and nothing else

    def _protocol(self, on_lost: Callable[[], None]) -> asyncio.Protocol:
        protocol = OneWriteProtocol(self.config, self.server_state, self.lifespan.state)
        protocol.on_lost = on_lost
        return protocol
