"""Keeps the queue before the event loop short while that queue costs requests their deadlines. Pure arithmetic.

The loop reads, encodes and answers, one thing at a time, and what waits for it is seen by nobody: admission counts a
request only once the loop has read it. A burst makes a queue that goes away by itself, and callers who wait for each
other's answers make one that does not grow; both are left alone. But when the loop has not caught up for a while and
requests are turned away because of it, more comes than it can do. Then whoever waited longer than a little is refused
before its body is read, which costs a fraction of scoring it: those who are let in are answered in time, and the
others learn of it at once.
"""

from typing import Final

CAUGHT_UP_S: Final = 0.0003
"""A wait that short is none: the loop has caught up."""
STANDING_S: Final = 0.1
"""A queue is a standing one when the loop has not caught up for so long."""
BEARABLE_S: Final = 0.0014
"""Longest wait in a standing queue that costs deadlines."""
ALARM_S: Final = 2.0
"""So long after the last deadline that was out of reach; then it is tried again without refusing."""


class LagGuard:
    """Watches how long requests wait for the event loop."""

    def __init__(self) -> None:
        self._behind_since_s = 0.0
        self._seen_s = -STANDING_S
        self._behind = False
        self._alarm_until_s = 0.0

    def alarm(self, now_s: float) -> None:
        """Learn that a request was turned away which a worker that is not busy would have answered in time."""
        if self._behind and now_s - self._behind_since_s > STANDING_S and now_s >= self._alarm_until_s:
            self._alarm_until_s = now_s + ALARM_S

    def refuses(self, lag_s: float, now_s: float) -> bool:
        """Learn how long a request waited for the loop, and return whether to refuse it.

        Args:
            lag_s: how long it waited.
            now_s: reading of the clock.

        """
        quiet = now_s - self._seen_s >= STANDING_S  # nobody came: nothing is known of that time
        self._seen_s = now_s
        if lag_s < CAUGHT_UP_S:
            self._behind = False
        elif not self._behind or quiet:
            self._behind = True
            self._behind_since_s = now_s
        return lag_s > BEARABLE_S and now_s < self._alarm_until_s
