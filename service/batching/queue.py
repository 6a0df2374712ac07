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
OwnRun: TypeAlias = Callable[[Tensors, int], NDArray[np.float32]]
"""Tensors of one request and its first candidate among them in, `logit_UN` out."""

LOOK_AHEAD: Final = 64  # jobs looked at for company
MIN_FILL: Final = 0.7  # least part of a shared run that is not padding


@dataclass(slots=True, eq=False)
class Job:
    """The candidates of one request on their way through the graph.

    Attributes:
        inputs: one request's tensors: `history_*` [1, L], `user_*` [1], `ad_*` and `context_*` [1, N].
        candidates: N.
        length: L.
        deadline_s: reading of the clock after which its scoring need not begin.
        submitted_s, started_s, ended_s: readings of the clock; the latter two are 0 until it happened.
        logit_N: the answer, filled chunk by chunk.
        own_run: what runs it in the graph's place; such a job shares no run.
        error: why there is none.
        abandoned: its caller left.

    """

    inputs: Tensors
    candidates: int
    length: int
    deadline_s: float
    submitted_s: float
    logit_N: NDArray[np.float32]  # noqa: N815 - shape suffix
    own_run: OwnRun | None = None
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

    def __len__(self) -> int:
        """Return the number of jobs with candidates that wait."""
        return len(self._jobs)

    def push(self, job: Job) -> None:
        """Add a job behind all others."""
        self._jobs.append(job)

    def take(self, now_s: float) -> Taken:
        """Remove and return the next run; without parts if nothing that is worth running waits."""
        taken = Taken()
        head = self._next_live(now_s, taken)
        if head is None:
            return taken
        taken.parts.append(self._cut(head))
        if self.limits.max_requests > 1 and self._jobs and head.own_run is None:
            self._add_company(now_s, taken)
        for part in taken.parts:
            if part.stop < part.job.candidates:
                self._jobs.append(part.job)
        return taken

    def _next_live(self, now_s: float, taken: Taken) -> Job | None:
        while self._jobs:
            job = self._jobs.popleft()
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

    def _add_company(self, now_s: float, taken: Taken) -> None:
        longest, most = taken.parts[0].job.length, taken.parts[0].count
        filled = longest * most
        passed_over: list[Job] = []
        for _ in range(min(LOOK_AHEAD, len(self._jobs))):
            if len(taken.parts) == self.limits.max_requests:
                break
            job = self._jobs.popleft()
            if not self._is_live(job, now_s, taken):
                continue
            count = min(job.candidates - job.taken, self.limits.chunk_candidates)
            longer, more = max(longest, job.length), max(most, count)
            cells = longer * more * (len(taken.parts) + 1)
            fill = (filled + job.length * count) / cells
            if cells > self.limits.max_cells or fill < MIN_FILL or job.own_run is not None:
                passed_over.append(job)
                continue
            taken.parts.append(self._cut(job))
            longest, most, filled = longer, more, filled + job.length * count
        self._jobs.extendleft(reversed(passed_over))
