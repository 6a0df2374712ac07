"""Which requests are kept: a random share, all that were slow, and no more in a second than allowed."""

from collections.abc import Callable
from random import Random

from service.capture.record import Why


class Choice:
    """Chooses.

    Args:
        sample: share of all requests, 0 to 1.
        slow_s: a request that took longer is kept in any case; 0 = none is slow.
        per_second: most requests kept in one second; 0 = no such limit.
        generator: draws the sample.
        clock: seconds; any.

    """

    def __init__(
        self, *, sample: float, slow_s: float, per_second: int, generator: Random, clock: Callable[[], float]
    ) -> None:
        self._sample = sample
        self._slow_s = slow_s or float("inf")
        self._per_second = per_second
        self._draw = generator.random
        self._clock = clock
        self._second_ends = 0.0
        self._left = 0

    def why(self, seconds: float) -> Why | None:
        """Return why a request that took so long is to be kept; None = it is not."""
        if seconds > self._slow_s:
            return "slow"
        return "sample" if self._sample and self._draw() < self._sample else None

    def admits(self) -> bool:
        """Whether one more may be kept in this second; if so, it counts."""
        if not self._per_second:
            return True
        now_s = self._clock()
        if now_s >= self._second_ends:
            self._second_ends = now_s + 1.0
            self._left = self._per_second
        self._left -= 1
        return self._left >= 0
