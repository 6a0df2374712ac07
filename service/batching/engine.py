"""The threads that run the graph, and the bridge from the event loop to them and back.

The event loop pushes jobs; a free thread takes the next run, joins it, waits for one of the `running` permits, and
hands the answer back to the loop. With `prepared` more threads than permits, the next run is joined while the
device is busy. Only the loop's thread touches futures and counts.

A job whose request is alone in the worker, and whose run is known to be short, runs on the loop itself: nobody waits
behind it, and two changes of thread are saved.
"""

import asyncio
import contextlib
import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from service.batching import padding
from service.batching.fit import RunTimeFit
from service.batching.job import Job, Limits, OwnRun, Part, Run, Taken, Tensors
from service.batching.policy import JobQueue
from service.batching.priority import give_way
from service.errors import DeadlineExceededError, InferenceError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunReport:
    """One run of the graph, for whoever counts: U requests of N candidates, and the share of padding."""

    requests: int
    candidates: int
    padding_ratio: float


class Engine:
    """Runs jobs through their graphs, sharing runs where that helps: one engine for all graphs of a worker.

    Args:
        limits: what one run may hold.
        running: runs at the same time.
        prepared: runs joined ahead while others run.
        inline_s: longest run that the event loop does itself for a lone request; 0 = none.
        nice: by how much the threads' priority is below the event loop's.
        clock: seconds; also the clock of the jobs' deadlines.
        on_run, on_late: told of each run, and of each job dropped for its deadline; called on the event loop.

    """

    def __init__(
        self,
        *,
        limits: Limits,
        running: int,
        prepared: int,
        inline_s: float,
        nice: int,
        clock: Callable[[], float],
        on_run: Callable[[RunReport], None],
        on_late: Callable[[], None],
    ) -> None:
        self._queue = JobQueue(limits, places=running)
        self._clock = clock
        self._on_run, self._on_late = on_run, on_late
        self._inline_s = inline_s
        self._nice = nice
        self._fits: dict[Run, RunTimeFit] = {}
        self._learning = threading.Lock()
        # without threads that prepare, the threads themselves are the limit
        self._permits = threading.Semaphore(running) if prepared else contextlib.nullcontext()
        self._wake = threading.Condition(threading.Lock())
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = [
            threading.Thread(target=self._work, name=f"engine-{index}", daemon=True)
            for index in range(running + prepared)
        ]

    def start(self) -> None:
        """Start the threads; their answers go to the running event loop."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Let the threads finish what they run and end; jobs that still wait are given up."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    async def score(
        self,
        inputs: Tensors,
        *,
        run: Run,
        candidates: int,
        length: int,
        deadline_s: float,
        alone: bool = False,
        own_run: OwnRun | None = None,
        background: bool = False,
    ) -> Job:
        """Score one request's candidates; the job returned holds `logit_N` and when it ran.

        Args:
            inputs: see `Job`.
            run: the graph; called from several threads at once, and shared by jobs whose runs are equal.
            candidates: N >= 1.
            length: L >= 1.
            deadline_s: reading of the clock; infinite = none.
            alone: no other request is in the worker, nor expected.
            own_run: runs this job in the graph's place, in chunks and on the same threads as any.
            background: run it only while nothing else waits.

        Raises:
            DeadlineExceededError: it passed before the scoring began.
            InferenceError: the graph failed on this job, also when run alone.

        """
        assert self._loop is not None, "score before start: this is a bug"
        job = Job(
            run=run,
            inputs=inputs,
            candidates=candidates,
            length=length,
            deadline_s=deadline_s,
            expected_s=self.expected_s(run, candidates, length),
            submitted_s=self._clock(),
            logit_N=np.empty(candidates, dtype=np.float32),
            own_run=own_run,
            background=background,
        )
        if alone and own_run is None and not background and self._runs_inline(job):
            self._report(self._execute([Part(job, 0, candidates)]))
            if job.error is not None:
                raise job.error
            return job
        await self._in_turn(job, self._loop.create_future())
        return job

    def expected_s(self, run: Run, candidates: int, length: float) -> float:
        """Return how long N candidates and L behaviours run when nothing else does; 0 = not known yet."""
        fit = self._fits.get(run)
        if fit is None:
            fit = self._fits.setdefault(run, RunTimeFit())
        if not fit.known:
            return 0.0
        chunk = self._queue.limits.chunk(length)
        if candidates <= chunk:
            return fit.expected_s(candidates, length)
        whole, rest = divmod(candidates, chunk)
        last_s = fit.expected_s(rest, length) if rest else 0.0
        return whole * fit.expected_s(chunk, length) + last_s

    def forget(self, run: Run) -> None:
        """Drop what was learnt about a graph that will not run again."""
        self._fits.pop(run, None)

    async def _in_turn(self, job: Job, waiter: "asyncio.Future[None]") -> None:
        job.waiter = waiter
        with self._wake:
            self._queue.push(job)
            self._wake.notify()
        try:
            await waiter
        except asyncio.CancelledError:
            job.abandoned = True
            raise

    def _runs_inline(self, job: Job) -> bool:
        whole = job.candidates <= self._queue.limits.chunk(job.length)
        return whole and 0.0 < job.expected_s <= self._inline_s and job.submitted_s <= job.deadline_s

    # ---------------------------------------------------------------- on the engine's threads

    def _work(self) -> None:
        give_way(self._nice)
        taken: Taken | None = None
        while True:
            taken = self._next(taken)
            if taken is None:
                return
            reports = self._execute(taken.parts) if taken.parts else []
            try:
                self._on_loop(self._deliver, taken, reports)
            except RuntimeError:  # the loop was closed under us: nobody waits any more
                return

    def _next(self, ended: Taken | None) -> Taken | None:
        """Give back the run that has ended and wait for the next; None when the engine closes."""
        with self._wake:
            if ended is not None:
                self._queue.returned(ended)
            while not self._closing:
                wait_s = None
                if self._queue:
                    now_s = self._clock()
                    taken = self._queue.take(now_s)
                    if taken.parts or taken.late:
                        if self._queue:
                            self._wake.notify()
                        return taken
                    if taken.again_s < math.inf:
                        wait_s = max(0.0, taken.again_s - now_s)
                self._wake.wait(wait_s)
            return None

    def _on_loop(self, call: Callable[..., None], *args: object) -> None:
        assert self._loop is not None, "work before start: this is a bug"
        self._loop.call_soon_threadsafe(call, *args)

    def _execute(self, parts: Sequence[Part]) -> list[RunReport]:
        """Run parts together; if that fails, each alone, so that a bad job fails alone."""
        try:
            return [self._execute_once(parts)]
        except Exception as error:
            if len(parts) > 1:
                logger.warning("a run of %d requests failed and is retried one by one: %s", len(parts), error)
                return [report for part in parts for report in self._execute([part])]
            logger.exception("the graph failed on a request of %d candidates", parts[0].count)
            parts[0].job.error = InferenceError("the model failed on this request")
            return []

    def _execute_once(self, parts: Sequence[Part]) -> RunReport:
        inputs = padding.join(parts)
        run, own_run = parts[0].job.run, parts[0].job.own_run
        with self._permits:
            started_s = self._clock()
            logit_UN = run(inputs) if own_run is None else own_run(inputs, parts[0].start)
            ended_s = self._clock()
        padding.split(parts, logit_UN)
        longest = most = useful = candidates = 0
        for part in parts:
            job, count = part.job, part.stop - part.start
            job.started_s = min(job.started_s or started_s, started_s)
            job.ended_s = max(job.ended_s, ended_s)
            longest, most = max(longest, job.length), max(most, count)
            useful += job.length * count
            candidates += count
        cells = len(parts) * longest * most
        if own_run is None:
            self._learn(run, ended_s - started_s, candidates=most, length=longest, requests=len(parts))
        return RunReport(len(parts), candidates, 1 - useful / cells)

    def _learn(self, run: Run, seconds: float, *, candidates: int, length: int, requests: int) -> None:
        with self._learning:
            fit = self._fits.get(run)
            if fit is not None:
                fit.ran(seconds, candidates=candidates, length=length, requests=requests)

    # ---------------------------------------------------------------- on the event loop

    def _deliver(self, taken: Taken, reports: Sequence[RunReport]) -> None:
        for part in taken.parts:
            job = part.job
            job.done += part.count
            if job.waiter.done():
                continue
            if job.error is not None:
                job.waiter.set_exception(job.error)
            elif job.done == job.candidates:
                job.waiter.set_result(None)
        for job in taken.late:
            self._on_late()
            if not job.waiter.done():
                waited_ms = (self._clock() - job.submitted_s) * 1e3
                job.waiter.set_exception(
                    DeadlineExceededError(
                        f"the deadline can't be kept any more, after {waited_ms:.1f} ms in the queue"
                    )
                )
        self._report(reports)

    def _report(self, reports: Sequence[RunReport]) -> None:
        assert self._loop is not None, "work before start: this is a bug"
        for report in reports:
            self._loop.call_soon(self._on_run, report)  # after those who wait have gone on


__all__ = ["Engine", "Job", "Limits", "Run", "RunReport"]
