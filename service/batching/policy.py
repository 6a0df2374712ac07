"""Which waiting candidates go into the next run: pure logic, no threads, no clock of its own.

Greedy: whoever is free takes what waits. Three rules keep the time of a request in proportion to its size, which
spans four orders of magnitude:

- Whoever is due first goes first, and a job is due when it has waited `PATIENCE` times as long as it runs by itself:
  a small one soon after it came, a large one later. So a small job passes large ones, and a large one is passed only
  by what came within that time of it: nobody starves. First come, first served, makes small jobs wait many times
  their own time; shortest first makes the large ones wait for ever.
- A job larger than the budget is cut into chunks. One chunk of a job runs at a time, and between two of them whoever
  is due earlier goes first.
- Where several runs go on at a time, the last free place is not given to a long run while the others are held by
  long runs, until that job has waited as long as it runs: short ones would find every place taken.

Others join the first while the padded work stays within the budget and is mostly not padding. Work is counted in
cells: requests x longest history x most candidates, as the padded tensors have it.
"""

import heapq
import itertools
import math
from typing import Final, TypeAlias

from service.batching.job import Job, Limits, Part, Taken

PATIENCE: Final = 8.0
LONG: Final = 1.0  # runs longer than so many times the usual one are long
HOLD: Final = 1.0  # times its own run that a job waits for a place which long runs should not take
LOOK_AHEAD: Final = 64  # jobs looked at for company, or for a short run
MIN_FILL: Final = 0.7  # least part of a shared run that is not padding
SMOOTHING: Final = 1 / 64

Entry: TypeAlias = tuple[float, int, Job]
"""When it is due, its number in order of arrival, the job."""


def due_s(submitted_s: float, expected_s: float, deadline_s: float) -> float:
    """Return when a job is due: nothing that comes later passes it.

    Args:
        submitted_s: when it came.
        expected_s: how long it runs by itself.
        deadline_s: when it should have ended; what has to begin earlier for that is due earlier.

    """
    return max(submitted_s, min(submitted_s + PATIENCE * expected_s, deadline_s - expected_s))


class JobQueue:
    """Jobs that wait, and the runs that were taken and have not come back.

    Args:
        limits: what one run may hold.
        places: runs at the same time.

    """

    def __init__(self, limits: Limits, *, places: int = 1) -> None:
        self.limits = limits
        self._places = places
        self._jobs: list[Entry] = []
        self._background: list[Entry] = []
        self._arrivals = itertools.count()
        self._long_runs = 0
        self._usual_s = 0.0  # of a run

    def __len__(self) -> int:
        """Return the number of jobs with candidates that wait."""
        return len(self._jobs) + len(self._background)

    @property
    def next_s(self) -> float:
        """How long the job that is due first is expected to run by itself; 0 without one."""
        return self._run_s(self._jobs[0][2]) if self._jobs else 0.0

    def push(self, job: Job) -> None:
        """Add a job; of those due at the same time the first to come goes first."""
        heap = self._background if job.background else self._jobs
        due = due_s(job.submitted_s, job.expected_s, job.deadline_s)
        heapq.heappush(heap, (due, next(self._arrivals), job))

    def take(self, now_s: float) -> Taken:
        """Remove and return the next run; give it back to `returned` when it has ended."""
        taken = Taken()
        for heap in (self._jobs, self._background):
            passed_over: list[Entry] = []
            head = self._head(heap, now_s, taken, passed_over)
            if head is not None:
                self._cut(head, taken)
                if self.limits.max_requests > 1 and head.own_run is None:
                    self._add_company(heap, now_s, taken, passed_over)
            for entry in passed_over:
                heapq.heappush(heap, entry)
            if taken.parts or heap:
                break
        return taken

    def returned(self, taken: Taken) -> None:
        """Take back a run that has ended: what remains of its jobs waits again."""
        self._long_runs -= taken.long
        for part in taken.parts:
            job = part.job
            if part.stop < job.candidates and not job.abandoned and job.error is None:
                self.push(job)

    def _head(self, heap: list[Entry], now_s: float, taken: Taken, passed_over: list[Entry]) -> Job | None:
        """Remove and return the job that goes next, if one may go now."""
        while heap and len(passed_over) < LOOK_AHEAD:
            entry = heapq.heappop(heap)
            job = entry[2]
            if not self._is_live(job, now_s, taken, crowded=bool(heap or passed_over)):
                continue
            run_s = self._run_s(job)
            if self._is_long(run_s):
                until_s = job.submitted_s + HOLD * job.expected_s
                if self._places > 1 and self._long_runs >= self._places - 1 and now_s < until_s:
                    taken.again_s = min(taken.again_s, until_s)
                    passed_over.append(entry)
                    continue
                taken.long = True
                self._long_runs += 1
            self._usual_s += (run_s - self._usual_s) * SMOOTHING
            return job
        return None

    def _run_s(self, job: Job) -> float:
        return job.expected_s * min(1.0, self.limits.chunk(job.length) / job.candidates)

    def _is_long(self, run_s: float) -> bool:
        return run_s > LONG * self._usual_s

    @staticmethod
    def _is_live(job: Job, now_s: float, taken: Taken, *, crowded: bool) -> bool:
        if job.abandoned or job.error is not None:
            return False  # its caller left, or was told that one of its chunks failed
        # what would end too late takes the time of others; without others it is tried, since expectations err
        if job.taken == 0 and now_s + (job.expected_s if crowded else 0.0) > job.deadline_s:
            taken.late.append(job)
            return False
        return True

    def _cut(self, job: Job, taken: Taken) -> None:
        start = job.taken
        job.taken = min(job.candidates, start + self.limits.chunk(job.length))
        taken.parts.append(Part(job, start, job.taken))

    def _add_company(self, heap: list[Entry], now_s: float, taken: Taken, passed_over: list[Entry]) -> None:
        head = taken.parts[0].job
        longest, most = head.length, taken.parts[0].count
        filled = longest * most
        share_s = self.limits.share_s
        run_s = self._run_s(head)
        if share_s < math.inf and not 0.0 < run_s < share_s:
            return
        for _ in range(min(LOOK_AHEAD, len(heap))):
            if len(taken.parts) == self.limits.max_requests:
                break
            entry = heapq.heappop(heap)
            job = entry[2]
            if not self._is_live(job, now_s, taken, crowded=True):
                continue
            count = min(job.candidates - job.taken, self.limits.chunk(job.length))
            longer, more = max(longest, job.length), max(most, count)
            cells = longer * more * (len(taken.parts) + 1)
            useful = filled + job.length * count
            stranger = job.own_run is not None or job.run != head.run
            slow = run_s + self._run_s(job) > share_s
            if stranger or slow or cells > self.limits.max_cells or useful < MIN_FILL * cells:
                passed_over.append(entry)
                continue
            run_s += self._run_s(job)
            self._cut(job, taken)
            longest, most, filled = longer, more, useful
