"""Runs short jobs on the event loop itself, all that came together in one turn of it.

Where a worker has one core, a thread of its own gains the graph nothing: whatever comes while it runs interrupts it,
and all that happens around a run finds the processor's caches emptied by it. So what was received together is read,
encoded, run and answered together. The loop does nothing else meanwhile, which is why a turn has a budget, and why
what takes longer goes to a thread. No locks: everything happens on the loop.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from service.batching.job import Job, Limits, Taken
from service.batching.policy import JobQueue

HOLD_S: Final = 0.001
"""Longest time that jobs wait for requests whose history is still being read."""
LEAST_SPARE_S: Final = 0.003
"""Who has less until the deadline, beside the run, is not kept waiting: timers of the loop count whole milliseconds."""
JUST_S: Final = 0.002
"""What came during a turn is read within this time of its end."""
SMALL_ONES: Final = 12.0
"""With sizes a hundredfold apart, slowdown p99 at 60 % of capacity is 12.8 to 14 with turns of 4 ms, 10 with 1 ms."""
MEMORY: Final = 64.0
"""Jobs after which an old one counts a third."""
MOST_OVER: Final = 10.0
"""A turn that took so many times its budget was expected wrongly, and held up everything."""
REST_S: Final = 1.0
"""So long everything goes to a thread then, where runs are as well learnt from."""
JOIN_UP_TO_S: Final = 0.0002
"""Longest run that becomes part of one call of the graph with others; longer ones are called in a row, which no other
thread interrupts here. Of TIN, L = 1000, N = 100, four in one call take 428 us each, alone 411: their tables of scores
leave the cache. Of runs of 50 us, mostly the cost of a call itself, four in one call take 36 each."""


class LoopTurns:
    """Jobs that wait for the loop's next turn.

    Args:
        limits: what one run may hold.
        budget_s: most time that a turn runs graphs, as it is expected. With jobs of very different sizes it is less:
            `SMALL_ONES` times what a small one takes, so that those don't wait long for the loop.
        run: runs what was taken, and delivers it.
        clock: seconds.

    Attributes:
        budget_s: of a turn, by what was let in lately.

    """

    def __init__(
        self, limits: Limits, *, budget_s: float, run: Callable[[Taken], None], clock: Callable[[], float]
    ) -> None:
        self._queue = JobQueue(limits)
        self._limits = limits
        self._most_s = self.budget_s = budget_s
        self._sizes = _Sizes()
        self._run = run
        self._clock = clock
        self._hold: asyncio.TimerHandle | None = None
        self._due = False
        self._closed = False
        self._not_before_s = -math.inf
        self._began_s = self._ended_s = -math.inf

    def takes(self, job: Job) -> bool:
        """Tell whether a job may run here: whole, known to be short, nothing special; learns what is typical."""
        if self._most_s and job.expected_s and not job.background:
            self.budget_s = min(self._most_s, SMALL_ONES * self._sizes.small_s(job.expected_s))
        return (
            0.0 < job.expected_s <= self.budget_s
            and not job.background
            and job.own_run is None
            and job.candidates <= self._limits.chunk(job.length)
            and job.submitted_s >= self._not_before_s
        )

    def push(self, job: Job, *, coming: int) -> None:
        """Add a job; `coming` further ones are on their way to here, and worth a moment's wait."""
        self._queue.push(job)
        if self._due:
            return
        spare_s = job.deadline_s - job.submitted_s - job.expected_s
        if coming <= 0 or spare_s <= LEAST_SPARE_S:
            self._next_turn()
        elif self._hold is None:
            self._hold = asyncio.get_running_loop().call_later(HOLD_S, self._next_turn)

    def unseen_s(self, now_s: float) -> float:
        """Return how long a request that is read at `now_s` may have waited for a turn to end; 0 if none just did."""
        return now_s - self._began_s if now_s - self._ended_s <= JUST_S else 0.0

    def close(self) -> None:
        """Run nothing more; jobs that wait are given up."""
        self._closed = True
        self._let_go()

    def _next_turn(self) -> None:
        self._let_go()
        self._due = True
        asyncio.get_running_loop().call_soon(self._turn)

    def _let_go(self) -> None:
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None

    def _turn(self) -> None:
        self._due = False
        if self._closed:
            return
        began_s = now_s = self._clock()
        until_s = began_s + self.budget_s
        while self._queue:
            if now_s > began_s and now_s + self._queue.next_s > until_s:
                self._next_turn()  # others come first, who wait for the loop
                break
            self._queue.limits = replace(self._limits, share_s=min(self._limits.share_s, until_s - now_s))
            taken = self._queue.take(now_s)
            for part in taken.parts:
                # answers go out when the turn ends: those that are due are not kept from it
                until_s = min(until_s, part.job.deadline_s - self.budget_s)
            self._run(taken)
            self._queue.returned(taken)
            now_s = self._clock()
        self._began_s, self._ended_s = began_s, now_s
        if now_s - began_s > MOST_OVER * self._most_s:
            self._not_before_s = now_s + REST_S


class _Sizes:
    """Mean and spread of the logarithms of what jobs take, of lately."""

    def __init__(self) -> None:
        self._count = 0.0
        self._mean = 0.0
        self._square = 0.0

    def small_s(self, expected_s: float) -> float:
        """Learn what one job takes, and return what a small one takes: one deviation below the mean."""
        self._count = min(self._count + 1, MEMORY)
        logarithm = math.log(expected_s)
        self._mean += (logarithm - self._mean) / self._count
        self._square += (logarithm * logarithm - self._square) / self._count
        variance = self._square - self._mean * self._mean
        return math.exp(self._mean - math.sqrt(max(0.0, variance)))
