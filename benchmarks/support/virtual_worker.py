"""One worker in virtual time: its event loop, the threads that run the graph, and the cores they share.

The decisions are those of the service itself: admission, the policy of the queue and the fit of run time. What is
simulated is the time that passes: a request is read on the event loop, its history is fetched, it is encoded on the
loop, waits for its run, runs, and is answered on the loop. The loop does one thing at a time; loop and threads run at
full speed while they are no more than the cores, and share the cores evenly otherwise.
"""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from benchmarks.support.virtual_requests import Costs, Outcome, Request, Rules
from service.batching.admission import Admission, Ticket
from service.batching.fit import RunTimeFit
from service.batching.job import Job, Taken
from service.batching.policy import JobQueue
from service.errors import LoopBehindError, OverloadedError

NOTHING: Final = np.empty(0, dtype=np.float32)
EPSILON_S: Final = 1e-12
CAPACITY: Final = 20_000  # candidates inside, as is the service's default


@dataclass(slots=True, eq=False)
class _Active:
    """Work on a core: seconds of it that are left, and what follows."""

    left_s: float
    then: Callable[[], None]


@dataclass(slots=True, eq=False)
class _Inside:
    """A request on its way: `parsed_s` when the worker first knew of it."""

    number: int
    arrived_s: float
    deadline_s: float = math.inf
    parsed_s: float = 0.0
    ticket: Ticket | None = None
    job: Job | None = None


class Worker:
    """Plays a trace.

    Args:
        trace: requests in order of arrival.
        costs: what everything takes.
        rules: how the worker decides.
        places: runs at the same time.
        cores: of the machine.
        clients: 0 = requests come at their times; else so many callers ask one after another, each once answered.
        seed: of the noise.

    """

    def __init__(
        self,
        trace: Sequence[Request],
        costs: Costs,
        *,
        rules: Rules,
        places: int = 2,
        cores: int = 2,
        clients: int = 0,
        seed: int = 0,
    ) -> None:
        self.trace, self.costs, self.rules = trace, costs, rules
        self.now_s = 0.0
        self.outcomes = [Outcome() for _ in trace]
        self._cores, self._clients = cores, clients
        self._loop: deque[_Active] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._threads: list[_Active | None] = [None] * places
        self._queue = JobQueue(rules.limits, places=places)
        self._admission = Admission(CAPACITY, places=places)
        self._fit = RunTimeFit()
        self._typical_length = 1.0
        self._noise = np.exp(np.random.default_rng(seed).normal(0, costs.noise, 1 << 16)).tolist()
        self._numbers = itertools.count()
        self._next = self._done = 0

    def run(self) -> list[Outcome]:
        """Return what became of each request; `now_s` is then the time of the last answer."""
        for _ in range(self._clients):
            self._arrive()
        while self._done < len(self.trace):
            self._give_work()
            self._pass_time()
        return self.outcomes

    # ---------------------------------------------------------------- time

    def _give_work(self) -> None:
        for place, active in enumerate(self._threads):
            if active is None and len(self._queue):
                taken = self._queue.take(self.now_s)
                for job in taken.late:
                    self._later(self.costs.refuse, partial(self._end, job.waiter, "late"))
                if taken.parts:
                    part = taken.parts[0]
                    seconds = self.costs.run_s(part.count, part.job.length)
                    seconds *= self._noise[next(self._numbers) % len(self._noise)]
                    then = partial(self._ran, place, taken, self.now_s)
                    self._threads[place] = _Active(seconds, then)
                elif taken.again_s < math.inf:
                    self._at(taken.again_s, lambda: None)

    def _pass_time(self) -> None:
        active = [thread for thread in self._threads if thread is not None]
        if self._loop:
            active.append(self._loop[0])
        speed = min(1.0, self._cores / len(active)) if active else 1.0
        pause_s = min((one.left_s / speed for one in active), default=math.inf)
        if self._timers:
            pause_s = min(pause_s, self._timers[0][0] - self.now_s)
        arrivals = not self._clients and self._next < len(self.trace)
        if arrivals:
            pause_s = min(pause_s, self.trace[self._next].at_s - self.now_s)
        pause_s = max(pause_s, 0.0)
        self.now_s += pause_s
        for one in active:
            one.left_s -= pause_s * speed
        for one in active:
            if one.left_s <= EPSILON_S:
                if self._loop and one is self._loop[0]:
                    self._loop.popleft()
                one.then()
        while self._timers and self._timers[0][0] <= self.now_s + EPSILON_S:
            heapq.heappop(self._timers)[2]()
        while (
            arrivals
            and self._next < len(self.trace)
            and self.trace[self._next].at_s <= self.now_s + EPSILON_S
        ):
            self._arrive()

    def _later(self, seconds: float, then: Callable[[], None], *, at_once: bool = False) -> None:
        """Do something on the event loop: behind what waits there, or without giving it up."""
        (self._loop.appendleft if at_once else self._loop.append)(_Active(seconds, then))

    def _at(self, when_s: float, then: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (when_s, next(self._numbers), then))

    # ---------------------------------------------------------------- the way of a request

    def _arrive(self) -> None:
        if self._next < len(self.trace):
            inside = _Inside(self._next, self.now_s)
            self._next += 1
            self._later(self.costs.accept, partial(self._accept, inside))

    def _accept(self, inside: _Inside) -> None:
        # the worker's clock of a deadline starts when it begins to read
        inside.parsed_s = self.now_s - self.costs.accept
        try:
            self._admission.meet(inside.parsed_s - inside.arrived_s, self.now_s)
        except LoopBehindError:
            self._later(self.costs.refuse, partial(self._end, inside, "refused"), at_once=True)
            return
        self._later(self._cost(self.costs.read, inside), partial(self._read, inside), at_once=True)

    def _read(self, inside: _Inside) -> None:
        request, rules = self.trace[inside.number], self.rules
        inside.deadline_s = inside.parsed_s + rules.deadline_s
        try:
            inside.ticket = self._admission.enter(
                request.candidates,
                now_s=self.now_s,
                expected_s=self._expected_s(request.candidates, self._typical_length),
                deadline_s=inside.deadline_s if rules.refusing else math.inf,
            )
        except OverloadedError:
            self._later(self.costs.refuse, partial(self._end, inside, "refused"), at_once=True)
            return
        self._at(self.now_s + self.costs.store, partial(self._got_history, inside))

    def _got_history(self, inside: _Inside) -> None:
        self._later(self._cost(self.costs.encode, inside), partial(self._submit, inside))

    def _submit(self, inside: _Inside) -> None:
        request, rules = self.trace[inside.number], self.rules
        self._typical_length += (request.length - self._typical_length) / 64
        expected_s = self._expected_s(request.candidates, request.length)
        assert inside.ticket is not None
        try:
            self._admission.check(
                inside.ticket,
                now_s=self.now_s,
                expected_s=expected_s,
                deadline_s=inside.deadline_s if rules.refusing else math.inf,
            )
        except OverloadedError:
            self._later(self.costs.refuse, partial(self._end, inside, "refused"), at_once=True)
            return
        job = inside.job = Job(
            run=_no_run,
            inputs={},
            candidates=request.candidates,
            length=request.length,
            submitted_s=self.now_s,
            logit_N=NOTHING,
            deadline_s=inside.deadline_s,
            expected_s=expected_s if rules.by_size else 0.0,
            waiter=inside,
        )
        alone = self._admission.lonely and rules.limits.chunk(job.length) >= job.candidates
        if alone and self._fit.known and expected_s <= rules.inline_s:
            job.started_s = self.now_s
            seconds = self.costs.run_s(job.candidates, job.length)
            self._later(seconds, partial(self._respond, inside), at_once=True)
        else:
            self._queue.push(job)

    def _ran(self, place: int, taken: Taken, started_s: float) -> None:
        self._threads[place] = None
        self._queue.returned(taken)
        for part in taken.parts:
            job = part.job
            self._fit.ran(self.now_s - started_s, candidates=part.count, length=job.length)
            job.started_s = job.started_s or started_s
            job.done += part.count
            if job.done == job.candidates:
                self._respond(job.waiter)

    def _respond(self, inside: _Inside) -> None:
        assert inside.job is not None
        inside.job.ended_s = self.now_s
        self._later(self._cost(self.costs.respond, inside), partial(self._end, inside, "scored"))

    def _end(self, inside: _Inside, fate: str) -> None:
        if inside.ticket is not None:
            self._admission.leave(inside.ticket)
        if fate == "scored" and inside.job is not None:
            in_engine_s = inside.job.ended_s - inside.job.submitted_s
            self._admission.answered(self.now_s - inside.parsed_s - in_engine_s)
        outcome = self.outcomes[inside.number]
        outcome.fate, outcome.seconds = fate, self.now_s - inside.arrived_s
        self._done += 1
        if self._clients:
            self._arrive()

    def _cost(self, cost: tuple[float, float], inside: _Inside) -> float:
        return cost[0] + cost[1] * self.trace[inside.number].candidates

    def _expected_s(self, candidates: int, length: float) -> float:
        return self._fit.expected_s(candidates, max(1, round(length))) if self._fit.known else 0.0


def _no_run(_tensors: object) -> np.ndarray:
    raise AssertionError("nothing runs in virtual time: this is a bug")
