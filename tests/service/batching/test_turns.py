"""What came together runs on the event loop together: when, how much of it, and what never does."""

import asyncio
import contextlib
import threading
import time

import numpy as np
import pytest

from service.batching.fit import LEAST_RUNS
from service.batching.job import Job, Limits, Part
from service.batching.runner import Runner
from service.batching.turns import HOLD_S
from service.errors import DeadlineExceededError, InferenceError
from tests.support.engines import CURSED, graph, running

LIMITS = Limits(max_requests=4, max_cells=100_000, chunk_candidates=64)


class Witness:
    """Remembers which thread ran what."""

    def __init__(self, *, takes_s=0.0):
        self.takes_s = takes_s
        self.runs = []

    def __call__(self, tensors):
        here = threading.current_thread() is threading.main_thread()
        self.runs.append(("loop" if here else "thread", tensors["ad_x"].shape[0]))
        if self.takes_s:
            time.sleep(self.takes_s)
        return graph(tensors)


@contextlib.asynccontextmanager
async def turning(witness, *, turn_s=1.0, limits=LIMITS):
    """An engine of one thread that has learnt how long the graph takes, and has forgotten who ran it."""
    async with running(witness, limits=limits, running=1, prepared=0, turn_s=turn_s) as watched:
        for _ in range(LEAST_RUNS):
            await watched.score([1])
        async with asyncio.timeout(10):
            while watched.engine._at_work:  # noqa: ASYNC110 - the thread has answered, but may not be back yet
                await asyncio.sleep(0.001)
        await asyncio.sleep(0)  # reports come a turn of the loop later
        witness.runs.clear()
        watched.reports.clear()
        yield watched


async def test_what_came_together_runs_on_the_loop_together():
    witness = Witness()
    async with turning(witness) as watched:
        got = await asyncio.gather(*(watched.score([ad], inside=3) for ad in (20, 30, 40)))
    assert got == [[23], [33], [43]]
    assert witness.runs == [("loop", 3)]
    assert [report.requests for report in watched.reports] == [3]


async def test_runs_that_take_longer_are_called_in_a_row_with_the_same_answers():
    witness = Witness(takes_s=0.002)
    async with turning(witness) as watched:
        got = await asyncio.gather(*(watched.score([ad], inside=3) for ad in (20, 30, 40)))
    assert got == [[23], [33], [43]]
    assert witness.runs == [("loop", 1)] * 3
    assert [report.requests for report in watched.reports] == [3]


async def test_those_who_are_on_their_way_are_waited_for():
    witness = Witness()
    async with turning(witness) as watched:
        first = asyncio.create_task(watched.score([20], inside=2))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not witness.runs
        second = asyncio.create_task(watched.score([30], inside=2))
        assert await asyncio.gather(first, second) == [[23], [33]]
    assert witness.runs == [("loop", 2)]


async def test_nobody_waits_long_for_one_who_does_not_come():
    witness = Witness()
    async with turning(witness) as watched:
        began_s = time.monotonic()
        assert await watched.score([20], inside=2) == [23]
        waited_s = time.monotonic() - began_s
        assert waited_s >= HOLD_S / 2  # a loop's timers count whole milliseconds
    assert witness.runs == [("loop", 1)]


async def test_what_takes_longer_than_a_turn_goes_to_a_thread():
    witness = Witness(takes_s=0.002)
    async with turning(witness, turn_s=0.001) as watched:
        assert await watched.score([20]) == [23]
    assert witness.runs == [("thread", 1)]


@pytest.mark.parametrize(
    "special", [{"background": True}, {"own_run": lambda tensors, _start: graph(tensors)}]
)
async def test_what_is_special_goes_to_a_thread(special):
    witness = Witness()
    async with turning(witness) as watched:
        assert await watched.score([20], **special) == [23]
    assert all(place == "thread" for place, _ in witness.runs)


async def test_a_job_of_several_chunks_goes_to_a_thread():
    witness = Witness()
    async with turning(witness) as watched:
        await watched.score(list(range(20, 100)))
    assert witness.runs == [("thread", 1)] * 2


async def test_while_a_thread_is_at_work_everything_goes_to_it():
    witness = Witness()
    entered, opened = threading.Event(), threading.Event()

    def held(tensors, _start):
        entered.set()
        assert opened.wait(10)
        return graph(tensors)

    async with turning(witness) as watched:
        long = asyncio.create_task(watched.score([20], own_run=held))
        await asyncio.to_thread(entered.wait)
        short = asyncio.create_task(watched.score([30], inside=2))
        await asyncio.sleep(0.01)
        assert not witness.runs
        opened.set()
        assert await asyncio.gather(long, short) == [[23], [33]]
    assert witness.runs == [("thread", 1)]


async def test_between_two_turns_the_loop_does_what_else_waits_for_it():
    witness = Witness(takes_s=0.004)
    seen = []

    async def others():
        while len(witness.runs) < 4:
            seen.append(len(witness.runs))
            await asyncio.sleep(0)

    limits = Limits(max_requests=1, max_cells=100_000, chunk_candidates=64)
    async with turning(witness, turn_s=0.006, limits=limits) as watched:
        asked = asyncio.gather(*(watched.score([ad], inside=4) for ad in (20, 30, 40, 50)))
        await asyncio.gather(others(), asked)
    assert 2 in seen  # 4 ms and 4 ms are more than 6, so two go at a time
    assert 1 not in seen
    assert 3 not in seen


async def test_an_answer_that_is_due_soon_ends_the_turn():
    witness = Witness(takes_s=0.004)
    first_answered_after = []

    limits = Limits(max_requests=1, max_cells=100_000, chunk_candidates=64)
    async with turning(witness, turn_s=0.1, limits=limits) as watched:

        async def hurried():
            await watched.score([20], inside=4, deadline_s=time.monotonic() + 0.08)
            first_answered_after.append(len(witness.runs))

        await asyncio.gather(hurried(), *(watched.score([ad], inside=4) for ad in (30, 40, 50)))
    assert first_answered_after == [1]


async def test_a_job_whose_caller_left_or_whose_deadline_passed_is_never_run():
    witness = Witness(takes_s=0.001)
    async with turning(witness) as watched:
        gone = asyncio.create_task(watched.score([20], inside=4))
        late = asyncio.create_task(watched.score([30], inside=4, deadline_s=time.monotonic() - 1))
        stays = asyncio.create_task(watched.score([40], inside=4))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        with pytest.raises(DeadlineExceededError):
            await late
        assert await stays == [43]
    assert witness.runs == [("loop", 1)]
    assert watched.late == 1


@pytest.mark.parametrize("takes_s", [0.0, 0.002])
async def test_a_bad_job_fails_alone(takes_s):
    witness = Witness(takes_s=takes_s)
    async with turning(witness) as watched:
        results = await asyncio.gather(
            *(watched.score([ad], inside=3) for ad in (20, CURSED, 40)), return_exceptions=True
        )
    assert results[0] == [23]
    assert isinstance(results[1], InferenceError)
    assert results[2] == [43]


async def test_without_a_budget_nothing_runs_on_the_loop():
    witness = Witness()
    async with turning(witness, turn_s=0.0) as watched:
        await asyncio.gather(*(watched.score([ad], inside=2) for ad in (20, 30)))
    assert {place for place, _ in witness.runs} == {"thread"}


async def test_what_waits_when_the_engine_closes_is_given_up():
    witness = Witness()
    async with turning(witness) as watched:
        waiting = asyncio.create_task(watched.score([20], inside=2))
        await asyncio.sleep(0)
        watched.engine.close()
        await asyncio.sleep(5 * HOLD_S)
        assert not waiting.done()
        waiting.cancel()
    assert not witness.runs


def test_runs_in_a_row_teach_what_one_of_them_takes():
    now_s = [0.0]

    def takes_a_second(tensors):
        now_s[0] += 1.0
        return graph(tensors)

    runner = Runner(LIMITS, permits=0, clock=lambda: now_s[0])

    def part(ad):
        inputs = {"ad_x": np.array([[ad]]), "history_x": np.array([[1, 2]])}
        job = Job(
            run=takes_a_second,
            inputs=inputs,
            candidates=1,
            length=2,
            submitted_s=0.0,
            logit_N=np.empty(1, dtype=np.float32),
            expected_s=1.0,
        )
        return Part(job, 0, 1)

    runner.expected_s(takes_a_second, 1, 2)
    for _ in range(LEAST_RUNS):
        parts = [part(20), part(30), part(40)]
        runner.execute(parts, join_s=0.5)
        assert [float(one.job.logit_N[0]) for one in parts] == [23, 33, 43]
    assert runner.expected_s(takes_a_second, 1, 2) == pytest.approx(1.0, rel=0.05)
