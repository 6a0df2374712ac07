"""Publishes how the store is doing: to the log, to a listener, to whoever waits for it."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from service.history.result import StoreState

OnState: TypeAlias = Callable[[StoreState], None]

logger = logging.getLogger(__name__)


class Publisher:
    """The state of one store.

    Args:
        on_state: called with every new state, from the loop.

    Attributes:
        state: the last one published.
        quiet: the store is being closed, which is no news.

    """

    def __init__(self, on_state: OnState | None) -> None:
        self.state = StoreState()
        self.quiet = False
        self._on_state = on_state
        self._changed = asyncio.Event()

    def publish(self, **changes: object) -> None:
        """Tell of a new state, if it is one."""
        state = replace(self.state, **changes)  # type: ignore[arg-type]  # the names are checked by replace
        if state == self.state:
            return
        before, self.state = self.state, state
        if state.problem and state.problem != before.problem:
            logger.error("%s", state.problem)
        if (state.up, state.breaker_open) != (before.up, before.breaker_open) and not self.quiet:
            if state.error:
                logger.warning("store %s: %s", "late" if state.up else "down", state.error)
            else:
                logger.info("store up")
        self._changed.set()
        if self._on_state is not None:
            self._on_state(state)

    async def wait(self, timeout_s: float) -> StoreState:
        """Return the state once the store is ready or has a problem, or when `timeout_s` are over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not (self.state.ready or self.state.problem):
                    self._changed.clear()
                    await self._changed.wait()
        return self.state
