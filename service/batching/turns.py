"""Runs short jobs on the event loop itself, all that came together in one turn of it.

Where a worker has one core, a thread of its own gains the graph nothing: whatever comes while it runs interrupts it,
and all that happens around a run finds the processor's caches emptied by it. So what was received together is read,
encoded, run and answered together. The loop does nothing else meanwhile, which is why a turn has a budget, and why
what takes longer goes to a thread. No locks: everything happens on the loop.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from service.batching.job import Job, Limits, Taken
from service.batching.policy import JobQueue

HOLD_S: Final = 0.001
"""Longest time that jobs wait for requests whose history is still being read."""
JOIN_S: Final = 0.0002
"""Longest run that becomes part of one call of the graph with others; longer ones are called in a row, which no other
thread interrupts here. Of TIN, L = 1000, N = 100, four in one call take 428 us each, alone 411: their tables of scores
leave the cache. Of runs of 50 us, mostly the cost of a call itself, four in one call take 36 each."""


class LoopTurns:
    """Jobs that wait for the loop's next turn.

    Args:
        limits: what one run may hold.
        budget_s: most time that a turn runs graphs, as it is expected; no job that takes longer is let in.
        run: runs what was taken, and delivers it.
        clock: seconds.

    """

    def __init__(
        self, limits: Limits, *, budget_s: float, run: Callable[[Taken], None], clock: Callable[[], float]
    ) -> None:
        self._queue = JobQueue(limits)
        self._limits = limits
        self._budget_s = budget_s
        self._run = run
        self._clock = clock
        self._hold: asyncio.TimerHandle | None = None
        self._due = False
        self._closed = False

    def __len__(self) -> int:
        """Return the number of jobs that wait."""
        return len(self._queue)

    def takes(self, job: Job) -> bool:
        """Tell whether a job may run here: whole, known to be short, nothing special."""
        return (
            0.0 < job.expected_s <= self._budget_s
            and not job.background
            and job.own_run is None
            and job.candidates <= self._limits.chunk(job.length)
        )

    def push(self, job: Job, *, coming: int) -> None:
        """Add a job; `coming` further ones are on their way to here, and worth a moment's wait."""
        self._queue.push(job)
        if self._due:
            return
        loop = asyncio.get_running_loop()
        if coming <= 0:
            self._due = True
            loop.call_soon(self._turn)
        elif self._hold is None:
            self._hold = loop.call_later(HOLD_S, self._turn)

    def close(self) -> None:
        """Run nothing more; jobs that wait are given up."""
        self._closed = True
        if self._hold is not None:
            self._hold.cancel()

    def _turn(self) -> None:
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None
        self._due = False
        if self._closed:
            return
        until_s = self._clock() + self._budget_s
        while self._queue:
            now_s = self._clock()
            if now_s >= until_s:
                self._due = True
                asyncio.get_running_loop().call_soon(self._turn)  # others come first, who wait for the loop
                return
            taken = self._queue.take(now_s)
            for (
                part
            ) in taken.parts:  # answers go out when the turn ends: those that are due are not kept from it
                until_s = min(until_s, part.job.deadline_s - self._budget_s)
            self._run(taken)
            self._queue.returned(taken)
