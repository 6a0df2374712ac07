"""Measures how long turns of the event loop take, and so how long a request waits before it is seen."""

import asyncio
from collections.abc import Callable
from typing import Final

STALE_S: Final = 0.05
"""A turn that ended so long ago says nothing of now."""
TURNS: Final = 2.0
"""What comes during a turn waits for the rest of it to be received, and for most of the next until its task runs."""


class LoopProbe:
    """Times turns of the running event loop, one at a time, and only while somebody asks.

    Args:
        clock: seconds.

    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began_s = 0.0
        self._ended_s = 0.0
        self._took_s = 0.0
        self._timing = False

    def lag_s(self, now_s: float) -> float:
        """Return how long requests wait: by the last turn, or by this one so far if it is longer; 0 after a pause."""
        if not self._timing:
            self._timing = True
            self._began_s = now_s
            if now_s - self._ended_s >= STALE_S:
                self._took_s = 0.0
            asyncio.get_running_loop().call_soon(self._turned)
        return TURNS * max(self._took_s, now_s - self._began_s)

    def _turned(self) -> None:
        self._timing = False
        self._ended_s = self._clock()
        self._took_s = self._ended_s - self._began_s
