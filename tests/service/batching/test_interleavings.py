"""Every order in which jobs can come, be taken, come back, fail and be given up: nobody gets another's scores.

A machine of rules plays against the queue; the graph is a function of the rows it is given, so that a row in the
wrong place shows.
"""

import math

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.batching import padding
from service.batching.admission import Admission
from service.batching.job import Job, Limits
from service.batching.policy import HOLD, PATIENCE, JobQueue, due_s
from service.errors import OverloadedError

CAPACITY = 600


def first_graph(tensors):
    """A number that tells ad, user, and the whole history apart; padding adds nothing."""
    history_UL = tensors["history_x"] * tensors["history_mask"]
    return (tensors["ad_x"] * 1000 + (history_UL.sum(axis=1) + tensors["user_x"])[:, None]).astype(np.float32)


def second_graph(tensors):
    return -first_graph(tensors)


class Interleavings(RuleBasedStateMachine):
    @initialize(
        max_requests=st.integers(1, 4),
        max_cells=st.integers(1, 400),
        chunk=st.integers(1, 30),
        places=st.integers(1, 3),
    )
    def start(self, max_requests, max_cells, chunk, places):
        self.limits = Limits(max_requests=max_requests, max_cells=max_cells, chunk_candidates=chunk)
        self.queue = JobQueue(self.limits, places=places)
        self.admission = Admission(CAPACITY)
        self.now_s = 0.0
        self.places = places
        self.jobs, self.tickets, self.flying = [], {}, []
        self.late, self.bad = set(), set()
        self.finished = set()

    @rule(
        candidates=st.integers(1, 90),
        length=st.integers(1, 60),
        run=st.sampled_from([first_graph, second_graph]),
        patience_s=st.sampled_from([math.inf, math.inf, 0.0, 0.5]),
        expected_s=st.floats(0, 1),
        background=st.booleans(),
    )
    def submit(self, *, candidates, length, run, patience_s, expected_s, background):
        inside, requests = self.admission.inside, self.admission.requests
        try:
            ticket = self.admission.enter(candidates)
        except OverloadedError:
            assert inside + candidates > CAPACITY
            assert (self.admission.inside, self.admission.requests) == (inside, requests)
            return
        number = len(self.jobs) + 1
        job = Job(
            run=run,
            inputs={
                "history_x": np.full((1, length), number, dtype=np.int64),
                "history_mask": np.ones((1, length), dtype=bool),
                "ad_x": np.arange(number, number + candidates, dtype=np.int64)[None],
                "user_x": np.array([number * 7]),
            },
            candidates=candidates,
            length=length,
            submitted_s=self.now_s,
            logit_N=np.full(candidates, np.nan, dtype=np.float32),
            deadline_s=self.now_s + patience_s,
            expected_s=expected_s,
            background=background,
        )
        self.jobs.append(job)
        self.tickets[id(job)] = ticket
        self.queue.push(job)

    @rule(seconds=st.floats(0, 1))
    def wait(self, seconds):
        self.now_s += seconds

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def leave(self, data):
        job = data.draw(st.sampled_from(self.jobs))
        if id(job) not in self.finished:
            job.abandoned = True
            self._finish(job)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def spoil(self, data):
        """Make the graph fail on a job from now on."""
        self.bad.add(id(data.draw(st.sampled_from(self.jobs))))

    @rule()
    def take(self):
        waiting = {id(job) for job in self._waiting()}
        taken = self.queue.take(self.now_s)
        for job in taken.late:
            assert self.now_s + job.expected_s > job.deadline_s
            assert job.taken == 0
            self.late.add(id(job))
            self._finish(job)
        if not taken.parts:
            return
        self._check_run(taken, waiting)
        self.flying.append(taken)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def come_back(self, data):
        taken = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        try:
            self._run(taken.parts)
        except ValueError:
            for part in taken.parts:
                try:
                    self._run([part])
                except ValueError as error:
                    part.job.error = error
        self.queue.returned(taken)
        for part in taken.parts:
            job = part.job
            job.done += part.count
            if job.error is not None or job.done == job.candidates:
                self._finish(job)

    @invariant()
    def everyone_has_exactly_their_own(self):
        for job in getattr(self, "jobs", []):
            if job.error is None and not job.abandoned and job.done == job.candidates:
                assert job.logit_N.tolist() == job.run(job.inputs)[0].tolist()

    @invariant()
    def admission_counts_who_is_inside(self):
        if hasattr(self, "jobs"):
            inside = [job for job in self.jobs if id(job) not in self.finished]
            assert self.admission.requests == len(inside)
            assert self.admission.inside == sum(job.candidates for job in inside) <= CAPACITY

    def teardown(self):
        """Whatever has happened, everyone comes to an end."""
        if not hasattr(self, "jobs"):
            return
        for _ in range(100_000):
            while self.flying:
                taken = self.flying.pop()
                self._come_back_in_peace(taken)
            taken = self.queue.take(self.now_s)
            for job in taken.late:
                self.late.add(id(job))
                self._finish(job)
            if taken.parts:
                self.flying.append(taken)
            elif taken.again_s < math.inf:
                self.now_s = max(self.now_s, taken.again_s)
            elif not taken.late:
                break
        assert not len(self.queue)
        assert self.admission.requests == 0
        self.everyone_has_exactly_their_own()
        for job in self.jobs:
            assert (
                (job.done == job.candidates) or job.abandoned or job.error is not None or id(job) in self.late
            )

    # ------------------------------------------------------------------

    def _come_back_in_peace(self, taken):
        for part in taken.parts:
            self._write([part])
        self.queue.returned(taken)
        for part in taken.parts:
            part.job.done += part.count
            if part.job.done == part.job.candidates:
                self._finish(part.job)

    def _run(self, parts):
        if any(id(part.job) in self.bad for part in parts):
            raise ValueError("spoilt")
        self._write(parts)

    @staticmethod
    def _write(parts):
        padding.split(parts, parts[0].job.run(padding.join(parts)))

    def _finish(self, job):
        if id(job) not in self.finished:
            self.finished.add(id(job))
            self.admission.leave(self.tickets.pop(id(job)))

    def _in_flight(self):
        return [part.job for taken in self.flying for part in taken.parts]

    def _waiting(self):
        flying = {id(job) for job in self._in_flight()}
        return [
            job
            for job in self.jobs
            if id(job) not in flying
            and id(job) not in self.late
            and not job.abandoned
            and job.error is None
            and job.taken < job.candidates
        ]

    def _check_run(self, taken, waiting):
        parts, limits = taken.parts, self.limits
        flying = {id(job) for job in self._in_flight()}
        assert len({id(part.job) for part in parts}) == len(parts) <= limits.max_requests
        assert len({part.job.run for part in parts}) == 1
        cells = len(parts) * max(part.job.length for part in parts) * max(part.count for part in parts)
        assert cells <= limits.max_cells or (len(parts) == 1 and parts[0].count == 1)
        for part in parts:
            assert id(part.job) in waiting
            assert id(part.job) not in flying  # one chunk of a job at a time
            assert part.start == part.job.done
            assert 1 <= part.count <= limits.chunk_candidates
        self._check_order(parts[0].job, waiting)

    def _check_order(self, head, waiting):
        """Nothing passes a job that is due, unless a place is held free, and that only for a while."""
        others = [
            job for job in self.jobs if id(job) in waiting and id(job) not in self.late and job is not head
        ]
        if head.background:
            assert all(job.background for job in others)
        for job in others:
            if job.background != head.background:
                continue
            if self._due(job) < self._due(head):
                assert self.places > 1
                assert self.now_s < job.submitted_s + HOLD * job.expected_s
            if head.submitted_s > job.submitted_s + PATIENCE * job.expected_s:
                assert self.now_s < job.submitted_s + HOLD * job.expected_s

    @staticmethod
    def _due(job):
        return due_s(job.submitted_s, job.expected_s, job.deadline_s)


Interleavings.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestInterleavings = pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")(
    Interleavings.TestCase
)
