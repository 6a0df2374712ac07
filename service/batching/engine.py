"""The threads that run the graph, and the bridge from the event loop to them and back.

The event loop pushes jobs; a free thread takes the next run, joins it, waits for one of the `running` permits, and
hands the answer back to the loop. With `prepared` more threads than permits, the next run is joined while the
device is busy. Only the loop's thread touches futures and counts.

A job whose request is alone in the worker, and whose run is known to be short, runs on the loop itself: nobody waits
behind it, and two changes of thread are saved. Where threads have no core of their own, so do all short ones while no
longer one is inside (see `turns`): beside one, the loop's higher priority would starve it.
"""

import asyncio
import math
import threading
from collections.abc import Callable

import numpy as np

from service.batching.job import Job, Limits, OwnRun, Part, Run, Taken, Tensors
from service.batching.policy import JobQueue
from service.batching.priority import give_way
from service.batching.runner import Runner, RunReport
from service.batching.turns import JOIN_UP_TO_S, LoopTurns
from service.errors import DeadlineExceededError


class Engine:
    """Runs jobs through their graphs, sharing runs where that helps: one engine for all graphs of a worker.

    Args:
        limits: what one run may hold.
        running: runs at the same time.
        prepared: runs joined ahead while others run.
        inline_s: longest run that the event loop does itself for a lone request; 0 = none.
        turn_s: longest time for which it runs what came together, while nothing longer is inside; 0 = never.
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
        turn_s: float,
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
        # without threads that prepare, the threads themselves are the limit
        self._runner = Runner(limits, permits=running if prepared else 0, clock=clock)
        self._turns = LoopTurns(limits, budget_s=turn_s, run=self._run_here, clock=clock)
        self._long = 0  # jobs that somebody waits for and that only a thread may run
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
        self._turns.close()
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
        coming: int = 0,
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
            coming: other requests that read their history and will be here in a moment.
            own_run: runs this job in the graph's place, in chunks and on the same threads as any.
            background: run it only while nothing else waits for a thread.

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
            self._report(self._runner.execute([Part(job, 0, candidates)]))
            if job.error is not None:
                raise job.error
            return job
        job.waiter = self._loop.create_future()
        here = self._turns.takes(job)
        long = not here and not background
        self._long += long
        try:
            if here and not self._long:
                self._turns.push(job, coming=coming)
            else:
                self._push(job)
            await job.waiter
        except asyncio.CancelledError:
            job.abandoned = True
            raise
        finally:
            self._long -= long
        return job

    def expected_s(self, run: Run, candidates: int, length: float) -> float:
        """Return how long N candidates and L behaviours run when nothing else does; 0 = not known yet."""
        return self._runner.expected_s(run, candidates, length)

    @property
    def turn_s(self) -> float:
        """How long the event loop runs graphs at a time, now; 0 = never."""
        return self._turns.budget_s

    def unseen_s(self, now_s: float) -> float:
        """Return how long a request that is read at `now_s` may have waited while the event loop ran graphs."""
        return self._turns.unseen_s(now_s)

    def forget(self, run: Run) -> None:
        """Drop what was learnt about a graph that will not run again."""
        self._runner.forget(run)

    def _push(self, job: Job) -> None:
        with self._wake:
            self._queue.push(job)
            self._wake.notify()

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
            report = self._runner.execute(taken.parts) if taken.parts else None
            try:
                self._on_loop(self._deliver, taken, report)
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

    # ---------------------------------------------------------------- on the event loop

    def _run_here(self, taken: Taken) -> None:
        self._deliver(
            taken, self._runner.execute(taken.parts, join_up_to_s=JOIN_UP_TO_S) if taken.parts else None
        )

    def _deliver(self, taken: Taken, report: RunReport | None) -> None:
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
        if report is not None:
            self._report(report)

    def _report(self, report: RunReport) -> None:
        assert self._loop is not None, "work before start: this is a bug"
        self._loop.call_soon(self._on_run, report)  # after those who wait have gone on


__all__ = ["Engine", "Job", "Limits", "Run", "RunReport"]
