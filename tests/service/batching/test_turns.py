"""What came together runs on the event loop together: when, how much of it, and what never does."""

import asyncio
import contextlib
import math
import threading
import time

import numpy as np
import pytest

from service.batching.fit import LEAST_RUNS
from service.batching.job import Job, Limits, Part
from service.batching.runner import Runner
from service.batching.turns import HOLD_S, LEAST_SPARE_S, LoopTurns
from service.errors import DeadlineExceededError, InferenceError
from tests.support.engines import CURSED, Gate, graph, learnt, running

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
        await learnt(watched)
        witness.runs.clear()
        yield watched


async def test_what_came_together_runs_on_the_loop_together():
    witness = Witness()
    async with turning(witness) as watched:
        got = await asyncio.gather(*(watched.score([ad]) for ad in (20, 30, 40)))
    assert got == [[23], [33], [43]]
    assert witness.runs == [("loop", 3)]
    assert [report.requests for report in watched.reports] == [3]


async def test_runs_that_take_longer_are_called_in_a_row_with_the_same_answers():
    witness = Witness(takes_s=0.002)
    async with turning(witness) as watched:
        got = await asyncio.gather(*(watched.score([ad]) for ad in (20, 30, 40)))
    assert got == [[23], [33], [43]]
    assert witness.runs == [("loop", 1)] * 3
    assert [report.requests for report in watched.reports] == [3]


async def test_those_who_are_on_their_way_are_waited_for():
    witness = Witness()
    async with turning(witness) as watched:
        first = asyncio.create_task(watched.score([20], coming=1))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not witness.runs
        second = asyncio.create_task(watched.score([30]))
        assert await asyncio.gather(first, second) == [[23], [33]]
    assert witness.runs == [("loop", 2)]


async def test_nobody_waits_long_for_one_who_does_not_come():
    witness = Witness()
    async with turning(witness) as watched:
        for _ in range(3):
            began_s = time.monotonic()
            async with asyncio.timeout(100 * HOLD_S):
                assert await watched.score([20], coming=1) == [23]
            assert time.monotonic() - began_s >= HOLD_S / 2  # a loop's timers count whole milliseconds
    assert witness.runs == [("loop", 1)] * 3


async def test_a_wait_for_others_is_as_short_as_documented():
    assert HOLD_S == 0.001


@pytest.mark.parametrize(
    ("coming", "left_s"), [(0, None), (1, LEAST_SPARE_S / 2)], ids=["nobody comes", "no time is left"]
)
async def test_who_has_nobody_or_no_time_to_wait_for_runs_in_the_next_turn(coming, left_s):
    witness = Witness()
    async with turning(witness) as watched:
        others = [asyncio.create_task(watched.score([ad], coming=1)) for ad in (20, 30)]
        deadline_s = math.inf if left_s is None else time.monotonic() + left_s
        last = asyncio.create_task(watched.score([40], coming=coming, deadline_s=deadline_s))
        for _ in range(4):  # turns of the loop, no time
            await asyncio.sleep(0)
        assert witness.runs == [("loop", 3)]
        assert await asyncio.gather(*others, last) == [[23], [33], [43]]


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


async def test_while_a_longer_job_is_inside_everything_goes_to_the_thread():
    witness = Witness()
    gate = Gate()

    def held(tensors, _start):
        return gate(tensors)

    async with turning(witness) as watched:
        long = asyncio.create_task(watched.score([20], own_run=held))
        await asyncio.to_thread(gate.entered.wait)
        short = asyncio.create_task(watched.score([30]))
        await asyncio.sleep(0.01)
        assert not witness.runs
        gate.opened.set()
        assert await asyncio.gather(long, short) == [[23], [33]]
        await watched.score([40])
    assert witness.runs == [("thread", 1), ("loop", 1)]


async def test_beside_what_nobody_waits_for_the_loop_goes_on():
    witness = Witness()
    gate = Gate()
    async with turning(witness) as watched:
        behind = asyncio.create_task(watched.score([20], run=gate, background=True))
        await asyncio.to_thread(gate.entered.wait)
        assert await watched.score([30]) == [33]
        gate.opened.set()
        assert await behind == [23]
    assert witness.runs == [("loop", 1)]


async def test_a_turn_ends_before_a_run_that_would_not_fit():
    witness = Witness(takes_s=0.004)
    limits = Limits(max_requests=4, max_cells=100_000, chunk_candidates=64)
    async with turning(witness, turn_s=0.0055, limits=limits) as watched:
        await asyncio.gather(*(watched.score([ad]) for ad in (20, 30, 40)))
    assert [report.requests for report in watched.reports] == [1, 1, 1]


async def test_a_turn_that_took_far_too_long_sends_everything_to_the_thread():
    witness = Witness()
    async with turning(witness, turn_s=0.005) as watched:
        await watched.score([20])
        witness.takes_s = 0.1
        for ad in (30, 40, 50):
            await watched.score([ad])
    assert witness.runs == [("loop", 1), ("loop", 1), ("thread", 1), ("thread", 1)]


async def test_between_two_turns_the_loop_does_what_else_waits_for_it():
    witness = Witness(takes_s=0.004)
    seen = []

    async def others():
        while len(witness.runs) < 4:
            seen.append(len(witness.runs))
            await asyncio.sleep(0)

    limits = Limits(max_requests=1, max_cells=100_000, chunk_candidates=64)
    async with turning(witness, turn_s=0.011, limits=limits) as watched:
        asked = asyncio.gather(*(watched.score([ad]) for ad in (20, 30, 40, 50)))
        await asyncio.gather(others(), asked)
    assert 2 in seen  # of 4 ms each, two go into a turn of 11
    assert 1 not in seen
    assert 3 not in seen


async def test_an_answer_that_is_due_soon_ends_the_turn():
    witness = Witness(takes_s=0.004)
    first_answered_after = []

    limits = Limits(max_requests=1, max_cells=100_000, chunk_candidates=64)
    async with turning(witness, turn_s=0.04, limits=limits) as watched:

        async def hurried():
            await watched.score([20], deadline_s=time.monotonic() + 0.03)
            first_answered_after.append(len(witness.runs))

        await asyncio.gather(hurried(), *(watched.score([ad]) for ad in (30, 40, 50)))
    assert first_answered_after == [1]


async def test_a_job_whose_caller_left_or_whose_deadline_passed_is_never_run():
    witness = Witness(takes_s=0.001)
    async with turning(witness) as watched:
        gone = asyncio.create_task(watched.score([20], coming=1))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        late = asyncio.create_task(watched.score([30], deadline_s=time.monotonic() - 1))
        stays = asyncio.create_task(watched.score([40]))
        with pytest.raises(DeadlineExceededError):
            await late
        assert await stays == [43]
    assert witness.runs == [("loop", 1)]
    assert watched.late == 1


@pytest.mark.parametrize("takes_s", [0.0, 0.002])
async def test_a_bad_job_fails_alone(takes_s):
    witness = Witness(takes_s=takes_s)
    calls = (
        3 if takes_s else 4
    )  # of three in a row none runs twice; three in one call are called again, each alone
    async with turning(witness) as watched:
        results = await asyncio.gather(
            *(watched.score([ad]) for ad in (20, CURSED, 40)), return_exceptions=True
        )
    assert results[0] == [23]
    assert isinstance(results[1], InferenceError)
    assert results[2] == [43]
    assert len(witness.runs) in (calls, calls + 1)


@pytest.mark.parametrize("turn_s", [0.0, 1.0], ids=["on a thread", "on the loop"])
async def test_a_graph_that_answers_in_another_shape_fails_its_jobs_and_nothing_else(turn_s):
    def too_many(tensors):
        return np.zeros((1, tensors["ad_x"].shape[1] + 1, 2), dtype=np.float32)

    async with turning(Witness(), turn_s=turn_s) as watched, asyncio.timeout(10):
        for _ in range(2):
            bad = await asyncio.gather(
                *(watched.score([20, 21], run=too_many) for _ in range(2)), return_exceptions=True
            )
            assert [type(one) for one in bad] == [InferenceError] * 2
            assert await watched.score([30]) == [33]


async def test_without_a_budget_nothing_runs_on_the_loop():
    witness = Witness()
    async with turning(witness, turn_s=0.0) as watched:
        await asyncio.gather(*(watched.score([ad]) for ad in (20, 30)))
    assert {place for place, _ in witness.runs} == {"thread"}


def turns_of(clock=lambda: 0.0):
    return LoopTurns(LIMITS, budget_s=0.005, run=lambda _taken: None, clock=clock)


def job_of(expected_s):
    return Job(
        run=graph,
        inputs={},
        candidates=1,
        length=1,
        submitted_s=0.0,
        logit_N=np.empty(1, dtype=np.float32),
        expected_s=expected_s,
    )


def test_among_jobs_of_one_size_the_budget_is_all_there_is_to_it():
    turns = turns_of()
    for _ in range(200):
        assert turns.takes(job_of(0.0005))
    assert turns.budget_s == 0.005
    assert not turns.takes(job_of(0.0051))
    assert not turns.takes(job_of(0.0))  # not known yet


def test_among_jobs_of_all_sizes_turns_are_as_short_as_small_ones_ask_for():
    rng = np.random.default_rng(0)
    turns = turns_of()
    for logarithm in rng.uniform(np.log(0.00005), np.log(0.005), 500):
        turns.takes(job_of(float(np.exp(logarithm))))
    assert turns.takes(job_of(0.0005))
    assert not turns.takes(job_of(0.004))


async def test_what_is_read_right_after_a_turn_may_have_waited_for_all_of_it():
    witness = Witness(takes_s=0.003)
    async with turning(witness) as watched:
        assert watched.engine.unseen_s(time.monotonic()) == 0.0
        began_s = time.monotonic()
        await watched.score([20])
        now_s = time.monotonic()
        assert 0.003 <= watched.engine.unseen_s(now_s) <= now_s - began_s
        assert watched.engine.unseen_s(now_s + 0.1) == 0.0


@pytest.mark.parametrize("coming", [0, 1], ids=["for its turn", "for others"])
async def test_what_waits_when_the_engine_closes_is_given_up(coming):
    witness = Witness()
    async with turning(witness) as watched:
        waiting = asyncio.create_task(watched.score([20], coming=coming))
        await asyncio.sleep(0)
        watched.engine.close()
        await asyncio.sleep(5 * HOLD_S)
        assert not waiting.done()
        waiting.cancel()
    assert not witness.runs


@pytest.mark.parametrize("join_up_to_s", [0.5, 2.0], ids=["in a row", "joined"])
def test_what_runs_together_teaches_what_one_of_them_takes(join_up_to_s):
    now_s = [0.0]

    def takes_a_second_each(tensors):
        now_s[0] += len(tensors["ad_x"])
        return graph(tensors)

    runner = Runner(LIMITS, permits=0, clock=lambda: now_s[0])

    def part(ad, length):
        return Part(
            Job(
                run=takes_a_second_each,
                inputs={"ad_x": np.array([[ad]]), "history_x": np.ones((1, length), dtype=np.int64)},
                candidates=1,
                length=length,
                submitted_s=0.0,
                logit_N=np.empty(1, dtype=np.float32),
                expected_s=1.0,
            ),
            0,
            1,
        )

    runner.expected_s(takes_a_second_each, 1, 2)
    for _ in range(2 * LEAST_RUNS):
        runner.execute([part(20, 2)])
        parts = [part(20, 2), part(30, 2), part(40, 2)]
        report = runner.execute(parts, join_up_to_s=join_up_to_s)
        assert [float(one.job.logit_N[0]) for one in parts] == [22, 32, 42]
        assert (report.requests, report.candidates, report.padding_ratio) == (3, 3, 0.0)
    assert runner.expected_s(takes_a_second_each, 1, 2) == pytest.approx(1.0, rel=0.1)
    padding = runner.execute([part(20, 2), part(30, 4)], join_up_to_s=join_up_to_s).padding_ratio
    assert padding == (0.0 if join_up_to_s < 1 else 0.25)
