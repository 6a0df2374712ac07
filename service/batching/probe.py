"""Measures how long one turn of the event loop takes: about as long as a request waits before it is seen."""

import asyncio
from collections.abc import Callable
from typing import Final

STALE_S: Final = 0.05
"""A turn that ended so long ago says nothing of now."""


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
        """Return how long the last turn took, or this one so far if that is longer; 0 after a pause."""
        if not self._timing:
            self._timing = True
            self._began_s = now_s
            asyncio.get_running_loop().call_soon(self._turned)
            return self._took_s if now_s - self._ended_s < STALE_S else 0.0
        return max(self._took_s, now_s - self._began_s)

    def _turned(self) -> None:
        self._timing = False
        self._ended_s = self._clock()
        self._took_s = self._ended_s - self._began_s
