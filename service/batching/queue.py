"""Which waiting candidates go into the next run: pure logic, no threads, no clock of its own.

Greedy: whoever is free takes what waits. The oldest job always goes first, so nobody starves; others join it
while the padded work stays within the budget and is mostly not padding. A job with more candidates than a chunk
gives up its place after each chunk, so a big request delays small ones by one chunk at most.

Work is counted in cells: requests x longest history x most candidates, as the padded tensors have it.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Tensors: TypeAlias = Mapping[str, NDArray[Any]]
Run: TypeAlias = Callable[[Tensors], NDArray[np.float32]]
"""A graph: tensors of U requests in, `logit_UN` out. Jobs of equal runs may share a call."""

OwnRun: TypeAlias = Callable[[Tensors, int], NDArray[np.float32]]
"""Tensors of one request and its first candidate among them in, `logit_UN` out."""

LOOK_AHEAD: Final = 64  # jobs looked at for company
MIN_FILL: Final = 0.7  # least part of a shared run that is not padding


@dataclass(slots=True, eq=False)
class Job:
    """The candidates of one request on their way through the graph.

    Attributes:
        run: the graph that scores it.
        inputs: one request's tensors: `history_*` [1, L], `user_*` [1], `ad_*` and `context_*` [1, N].
        candidates: N.
        length: L.
        deadline_s: reading of the clock after which its scoring need not begin.
        submitted_s, started_s, ended_s: readings of the clock; the latter two are 0 until it happened.
        logit_N: the answer, filled chunk by chunk.
        own_run: what runs it in the graph's place; such a job shares no run.
        background: nobody waits for it; it runs while nothing else is there to run.
        error: why there is none.
        abandoned: its caller left.

    """

    run: Run
    inputs: Tensors
    candidates: int
    length: int
    deadline_s: float
    submitted_s: float
    logit_N: NDArray[np.float32]  # noqa: N815 - shape suffix
    own_run: OwnRun | None = None
    background: bool = False
    started_s: float = 0.0
    ended_s: float = 0.0
    error: Exception | None = None
    abandoned: bool = False
    taken: int = 0
    done: int = 0
    waiter: Any = None


@dataclass(frozen=True, slots=True)
class Part:
    """Candidates `start` to `stop` of a job, in one run."""

    job: Job
    start: int
    stop: int

    @property
    def count(self) -> int:
        """Candidates in this part."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may hold."""

    max_requests: int
    max_cells: int
    chunk_candidates: int


@dataclass(frozen=True, slots=True)
class Taken:
    """The next run, and the jobs that were too late for it."""

    parts: list[Part] = field(default_factory=list)
    late: list[Job] = field(default_factory=list)


class JobQueue:
    """Jobs in order of arrival, unfinished big ones behind those that came meanwhile."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._jobs: deque[Job] = deque()
        self._background: deque[Job] = deque()

    def __len__(self) -> int:
        """Return the number of jobs with candidates that wait."""
        return len(self._jobs) + len(self._background)

    def push(self, job: Job) -> None:
        """Add a job behind all others."""
        (self._background if job.background else self._jobs).append(job)

    def take(self, now_s: float) -> Taken:
        """Remove and return the next run; without parts if nothing that is worth running waits."""
        taken = Taken()
        for jobs in (self._jobs, self._background):
            head = self._next_live(jobs, now_s, taken)
            if head is None:
                continue
            taken.parts.append(self._cut(head))
            if self.limits.max_requests > 1 and jobs and head.own_run is None:
                self._add_company(jobs, now_s, taken)
            jobs.extend(part.job for part in taken.parts if part.stop < part.job.candidates)
            break
        return taken

    def _next_live(self, jobs: deque[Job], now_s: float, taken: Taken) -> Job | None:
        while jobs:
            job = jobs.popleft()
            if self._is_live(job, now_s, taken):
                return job
        return None

    @staticmethod
    def _is_live(job: Job, now_s: float, taken: Taken) -> bool:
        if job.abandoned or job.error is not None:
            return False  # its caller left, or was told that one of its chunks failed
        if job.taken == 0 and now_s > job.deadline_s:
            taken.late.append(job)
            return False
        return True

    def _cut(self, job: Job) -> Part:
        start = job.taken
        affordable = max(1, self.limits.max_cells // job.length)
        job.taken = min(job.candidates, start + min(self.limits.chunk_candidates, affordable))
        return Part(job, start, job.taken)

    def _add_company(self, jobs: deque[Job], now_s: float, taken: Taken) -> None:
        head = taken.parts[0].job
        longest, most = head.length, taken.parts[0].count
        filled = longest * most
        passed_over: list[Job] = []
        for _ in range(min(LOOK_AHEAD, len(jobs))):
            if len(taken.parts) == self.limits.max_requests:
                break
            job = jobs.popleft()
            if not self._is_live(job, now_s, taken):
                continue
            count = min(job.candidates - job.taken, self.limits.chunk_candidates)
            longer, more = max(longest, job.length), max(most, count)
            cells = longer * more * (len(taken.parts) + 1)
            fill = (filled + job.length * count) / cells
            stranger = job.own_run is not None or job.run != head.run
            if stranger or cells > self.limits.max_cells or fill < MIN_FILL:
                passed_over.append(job)
                continue
            taken.parts.append(self._cut(job))
            longest, most, filled = longer, more, filled + job.length * count
        jobs.extendleft(reversed(passed_over))
