"""One process that answers requests: it listens, becomes ready, serves, drains, ends.

The socket answers from the first moment: probes see a living process that is not ready and says why. Signals: the
first SIGTERM makes it not ready, and after `drain_delay_s` it stops listening and finishes what runs; Ctrl-C, or a
second signal, leaves the delay out.
"""

import asyncio
import contextlib
import gc
import logging
import math
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import uvicorn
import uvloop
from prometheus_client import CollectorRegistry

from service.api.answered import Observer
from service.api.app import build_app
from service.api.state import ServiceState
from service.metrics import Metrics
from service.settings import Settings
from service.wiring.assembly import CLOCK, threads_of
from service.wiring.capturing import Capture, begin_capture
from service.wiring.protocol import OneWriteProtocol
from service.wiring.server import Server
from service.wiring.slots import slots_of
from service.wiring.sockets import url_of
from service.wiring.unit import Unit

GC_THRESHOLDS: Final = (50_000, 50, 1000)
STORE_POLL_S: Final = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Company:
    """What a worker has to know when it is one of several.

    Attributes:
        on_ready: tells the parent; it calls `open` once all workers are ready.
        replaces: it takes the place of one that died, while the others serve.

    """

    on_ready: Callable[[], None]
    replaces: bool


class Worker:
    """Serves what its slots hold on one socket.

    Args:
        settings: with the bundle's path, and the URL of a store that someone else keeps.
        listener: listens already.
        exchange: the folder in which workers agree on their slots.
        company: of other workers on the same socket.

    """

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        exchange: Path,
        *,
        company: Company | None = None,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._company = company
        self._opened = asyncio.Event()
        self._state = ServiceState()
        self._metrics = Metrics(CollectorRegistry())
        self._observers: list[Observer] = []
        self._slots = slots_of(settings, self._metrics, self._state, exchange)
        self._observers.append(self._slots.shadow)
        self._capture: Capture | None = None
        self._server = Server(self._uvicorn_config(), shares=None if company is None else exchange)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Serve until told to end; returns after the last answer.

        Raises:
            contract.errors.LongsightError: it could not start.

        """
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._run())

    def open(self) -> None:
        """The other workers are ready too; may be called from another thread."""
        self._on_loop(self._opened.set)

    def end_soon(self) -> None:
        """Drain without delay; may be called from another thread."""
        self._on_loop(self._drain, 0.0)

    def _on_loop(self, call: Callable[..., object], *arguments: object) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(call, *arguments)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGTERM, self._drain, self._settings.server.drain_delay_s)
        self._loop.add_signal_handler(signal.SIGINT, self._drain, 0.0)
        starting = asyncio.create_task(self._start())
        starting.add_done_callback(self._on_started)
        self._starting = starting
        try:
            if self._company is not None and self._company.replaces:
                # the others answer meanwhile; a caller of ours would only hear that we are not ready
                await asyncio.wait([starting])
            if not self._server.should_exit:
                await self._server.serve(sockets=[self._listener])
            if starting.done() and not starting.cancelled():
                starting.result()
        finally:
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await starting
            await self._close()
        logger.info("stopped")

    # ---------------------------------------------------------------- starting

    async def _start(self) -> None:
        """Become ready."""
        settings, state = self._settings, self._state
        began_s = CLOCK()
        self._capture = begin_capture(settings.capture, self._metrics, state, self._observers)
        self._slots.shared.engine.start()
        await self._slots.follower.begin(replaces=self._company is not None and self._company.replaces)
        champion = self._slots.keeper.champion
        state.store = lambda: champion.store.state
        state.reason = "starting: waiting for the store"
        await self._wait_for_store(champion)
        _settle_garbage_collector()
        await self._slots.follower.join()
        if self._company is not None:
            state.reason = "starting: waiting for the other workers"
            self._company.on_ready()
            await self._opened.wait()
        state.reason = ""
        logger.info(
            "ready after %.1f s: %s %s at %s, device %s, %d run(s) at a time, store %s",
            CLOCK() - began_s,
            champion.served.name,
            champion.served.version,
            url_of(self._listener),
            settings.runtime.device,
            threads_of(settings),
            _store_words(champion),
        )

    async def _wait_for_store(self, champion: Unit) -> None:
        """Wait for the store and the catalogue; for ever only if a store is required."""
        settings = self._settings.redis
        until_s = CLOCK() + settings.wait_s
        store = await champion.store.wait(settings.wait_s)
        while settings.require_store and not store.seen:
            store = await champion.store.wait(STORE_POLL_S)
        if store.ready:
            await champion.catalogue.wait(max(0.0, until_s - CLOCK()))

    def _on_started(self, starting: asyncio.Task[None]) -> None:
        if not starting.cancelled() and starting.exception() is not None:
            self._server.should_exit = True

    def _uvicorn_config(self) -> uvicorn.Config:
        settings = self._settings
        app = build_app(
            self._state,
            self._metrics,
            version=_version(),
            max_body_bytes=settings.server.max_body_bytes,
            default_deadline_ms=settings.batching.deadline_ms,
            observers=self._observers,
            slots=self._slots.changer,
            admin_token=settings.auth.admin_token,
            clock=CLOCK,
        )
        return uvicorn.Config(
            app,
            http=OneWriteProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=settings.server.keep_alive_s,
            timeout_graceful_shutdown=math.ceil(settings.server.drain_timeout_s),
        )

    # ---------------------------------------------------------------- ending

    def _drain(self, delay_s: float) -> None:
        if self._state.draining or self._state.reason:
            delay_s = 0.0  # told twice, or nobody was sent here yet
        self._state.draining = True
        logger.info("draining: not ready any more, %s", f"closing in {delay_s:g} s" if delay_s else "closing")
        asyncio.get_running_loop().call_later(delay_s, self._stop_listening)

    def _stop_listening(self) -> None:
        self._server.should_exit = True
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()

    async def _close(self) -> None:
        if self._capture is not None:
            await self._capture.close()
        await self._slots.close()


def _settle_garbage_collector() -> None:
    """Never look at start-up's objects again, and seldom at the rest: full collections stop every request."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _store_words(champion: Unit) -> str:
    state = champion.store.state
    if state.problem:
        return f"unusable: {state.problem}"
    if not state.up:
        return f"down, answers will be degraded: {state.error}"
    return f"up, {len(champion.catalogue)} ads"


def _version() -> str:
    try:
        return metadata.version("longsight")
    except metadata.PackageNotFoundError:
        return "0"
