"""Keeps the queue before the event loop short while that queue costs requests their deadlines. Pure arithmetic.

The loop reads, encodes and answers, one thing at a time, and what waits for it is seen by nobody: admission counts a
request only once the loop has read it. A burst makes a queue that goes away by itself, and callers who wait for each
other's answers make one that does not grow; both are left alone. But when requests wait for the loop all the time and
deadlines are out of reach because of it, more comes than it can do. Then whoever waited longer than a little is refused
before its body is read, which costs a fraction of scoring it: those who are let in are answered in time, and the
others learn of it at once. (Refusing a share that follows the wait was measured too: fewer are answered, since it also
refuses when the loop would have had time.)
"""

from typing import Final

BEARABLE_S: Final = 0.0012
"""Longest wait for the loop while waiting costs deadlines."""
ALARM_S: Final = 5.0
"""So long after a deadline was out of reach; then it is tried again without refusing."""
CALM: Final = 0.3
"""Of what is bearable: when requests usually wait no longer than that, it is over."""
SMOOTHING: Final = 1 / 32
QUIET_S: Final = 0.1
"""Waits that were seen so long ago say nothing of now."""


class LagGuard:
    """Watches how long requests wait for the event loop."""

    def __init__(self) -> None:
        self._usual_s = 0.0
        self._seen_s = 0.0
        self._alarm_until_s = 0.0

    def alarm(self, now_s: float) -> None:
        """Learn that a request was turned away which a worker that is not busy would have answered in time."""
        if self._usual_s > BEARABLE_S and now_s >= self._alarm_until_s:
            self._alarm_until_s = now_s + ALARM_S

    def refuses(self, lag_s: float, now_s: float) -> bool:
        """Learn how long a request waited for the loop, and return whether to refuse it.

        Args:
            lag_s: how long it waited.
            now_s: reading of the clock.

        """
        if now_s - self._seen_s > QUIET_S:
            self._usual_s = 0.0
        self._seen_s = now_s
        self._usual_s += (lag_s - self._usual_s) * SMOOTHING
        if now_s >= self._alarm_until_s:
            return False
        if self._usual_s < CALM * BEARABLE_S:
            self._alarm_until_s = now_s
            return False
        return lag_s > BEARABLE_S
