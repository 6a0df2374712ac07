"""Threads and event loop together, round a graph whose answers can be checked."""

import asyncio
import logging
import os
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.fit import LEAST_RUNS
from service.batching.job import Limits
from service.errors import DeadlineExceededError, InferenceError
from tests.support.engines import CURSED, Gate, graph, learnt, running


@settings(max_examples=15, deadline=None)
@given(
    requests=st.lists(
        st.tuples(
            st.lists(st.integers(20, 10_000), min_size=1, max_size=200),
            st.lists(st.integers(0, 1000), min_size=1, max_size=30),
            st.floats(0, 0.003),
            st.integers(0, 2),
        ),
        min_size=1,
        max_size=40,
    ),
    max_requests=st.integers(1, 8),
    threads=st.integers(1, 3),
    inline_s=st.sampled_from([0.0, 1.0]),
    turn_s=st.sampled_from([0.0, 0.0005, 1.0]),
)
def test_everyone_gets_exactly_their_own_scores_in_any_company(
    requests, max_requests, threads, inline_s, turn_s
):
    inside = [0]

    async def caller(watched, ads, history, pause_s, coming):
        await asyncio.sleep(pause_s)
        inside[0] += 1
        try:
            got = await watched.score(ads, history, alone=inside[0] == 1, coming=coming)
        finally:
            inside[0] -= 1
        assert got == [ad + sum(history) for ad in ads]

    async def story():
        limits = Limits(max_requests=max_requests, max_cells=2000, chunk_candidates=64)
        async with running(
            limits=limits, running=threads, prepared=1, inline_s=inline_s, turn_s=turn_s
        ) as watched:
            await learnt(watched)
            await asyncio.gather(*(caller(watched, *request) for request in requests))
            await asyncio.sleep(0)
            assert sum(report.candidates for report in watched.reports) == sum(
                len(ads) for ads, *_ in requests
            )

    asyncio.run(story())


def doubled(tensors):
    return graph(tensors) * 2


FATES = ["stays", "stays", "leaves", "cursed", "hurried", "behind"]


@settings(max_examples=15, deadline=None)
@given(
    requests=st.lists(
        st.tuples(
            st.lists(st.integers(20, 10_000), min_size=1, max_size=200),
            st.lists(st.integers(0, 1000), min_size=1, max_size=30),
            st.floats(0, 0.003),
            st.sampled_from(FATES),
        ),
        min_size=1,
        max_size=40,
    ),
    max_requests=st.integers(1, 8),
    threads=st.integers(1, 3),
    turn_s=st.sampled_from([0.0, 0.0005, 1.0]),
)
def test_nobody_is_hurt_by_those_who_leave_fail_or_are_late(requests, max_requests, threads, turn_s):
    async def caller(watched, ads, history, pause_s, fate):
        await asyncio.sleep(pause_s)
        factor = 1 + len(history) % 2
        options = {"run": doubled if factor == 2 else graph, "background": fate == "behind"}
        options["coming"] = len(ads) % 3
        if fate == "hurried":
            options["deadline_s"] = time.monotonic() + pause_s / 2
        asked = asyncio.create_task(
            watched.score([*ads, CURSED] if fate == "cursed" else ads, history, **options)
        )
        if fate == "leaves":
            await asyncio.sleep(pause_s / 4)
            asked.cancel()
        try:
            got = await asked
        except asyncio.CancelledError:
            assert fate == "leaves"
        except DeadlineExceededError:
            assert fate == "hurried"
        except InferenceError:
            assert fate == "cursed"
        else:
            assert fate != "cursed"
            assert got == [factor * (ad + sum(history)) for ad in ads]

    async def story():
        limits = Limits(max_requests=max_requests, max_cells=2000, chunk_candidates=64)
        async with running(limits=limits, running=threads, prepared=1, turn_s=turn_s) as watched:
            for run in (graph, doubled):
                await learnt(watched, run=run)
            async with asyncio.timeout(30):
                await asyncio.gather(*(caller(watched, *request) for request in requests))

    logging.disable(logging.ERROR)  # of those that fail on purpose
    try:
        asyncio.run(story())
    finally:
        logging.disable(logging.NOTSET)


async def test_a_bad_job_fails_alone():
    gate = Gate()
    async with running(gate, running=1, prepared=0) as watched:
        first = asyncio.create_task(watched.score([1]))
        await asyncio.to_thread(gate.entered.wait)
        others = [asyncio.create_task(watched.score(ads)) for ads in ([2], [CURSED], [3, 4])]
        await asyncio.sleep(0)
        gate.opened.set()
        results = await asyncio.gather(first, *others, return_exceptions=True)
    assert results[0] == [4]
    assert results[1] == [5]
    assert isinstance(results[2], InferenceError)
    assert results[3] == [6, 7]


async def test_one_bad_chunk_fails_its_whole_request_once():
    async with running() as watched:
        with pytest.raises(InferenceError):
            await watched.score([*range(100, 228), CURSED, *range(100, 228)])
        assert await watched.score([1]) == [4]


async def test_whoever_waits_is_taken_together_once_the_engine_is_free():
    gate = Gate()
    async with running(gate, running=1, prepared=0) as watched:
        first = asyncio.create_task(watched.score([1]))
        await asyncio.to_thread(gate.entered.wait)
        others = [asyncio.create_task(watched.score([ad])) for ad in range(50, 53)]
        await asyncio.sleep(0)
        gate.opened.set()
        await asyncio.gather(first, *others)
    assert [report.requests for report in watched.reports] == [1, 3]


async def test_a_job_with_a_run_of_its_own_shares_none_and_gets_its_chunks_in_their_places():
    gate, own = Gate(), []

    def run_of_its_own(tensors, start):
        own.append((start, tensors["ad_x"].shape, tensors["history_x"].shape))
        return graph(tensors) + np.float32(1000)

    limits = Limits(max_requests=8, max_cells=100_000, chunk_candidates=4)
    async with running(gate, limits=limits, running=1, prepared=0, inline_s=10.0) as watched:
        first = asyncio.create_task(watched.score([1]))
        await asyncio.to_thread(gate.entered.wait)
        others = [asyncio.create_task(watched.score([ads])) for ads in (2, 3)]
        special = asyncio.create_task(watched.score(list(range(20, 30)), alone=True, own_run=run_of_its_own))
        others += [asyncio.create_task(watched.score([ads])) for ads in (4, 5)]
        await asyncio.sleep(0)
        gate.opened.set()
        assert await first == [4]
        assert [await other for other in others] == [[5], [6], [7], [8]]
        assert await special == [1003 + ad for ad in range(20, 30)]
    assert own == [(0, (1, 4), (1, 2)), (4, (1, 4), (1, 2)), (8, (1, 2), (1, 2))]
    assert sorted(report.requests for report in watched.reports) == [1, 1, 1, 1, 4]


async def test_a_run_of_its_own_that_fails_fails_its_job_alone():
    def fails(_tensors, _start):
        raise ValueError("no weights")

    async with running() as watched:
        good, bad = await asyncio.gather(
            watched.score([1]), watched.score([2], own_run=fails), return_exceptions=True
        )
    assert good == [4]
    assert isinstance(bad, InferenceError)


async def test_a_job_whose_deadline_passes_in_the_queue_is_never_run():
    gate = Gate()
    async with running(gate, running=1, prepared=0) as watched:
        first = asyncio.create_task(watched.score([1]))
        await asyncio.to_thread(gate.entered.wait)
        late = asyncio.create_task(watched.score([2], deadline_s=time.monotonic() + 0.01))
        await asyncio.sleep(0.03)
        gate.opened.set()
        with pytest.raises(DeadlineExceededError, match="ms in the queue"):
            await late
        await first
    assert (len(watched.reports), watched.late) == (1, 1)


async def test_a_job_whose_caller_left_is_never_run():
    gate = Gate()
    async with running(gate, running=1, prepared=0) as watched:
        first = asyncio.create_task(watched.score([1]))
        await asyncio.to_thread(gate.entered.wait)
        gone = asyncio.create_task(watched.score([2]))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        gate.opened.set()
        await first
        assert await watched.score([3]) == [6]
    assert [report.candidates for report in watched.reports] == [1, 1]


async def test_a_lone_short_job_runs_on_the_loop_once_its_length_is_known():
    threads = []

    def remember(tensors):
        threads.append(threading.current_thread())
        return graph(tensors)

    async with running(remember, inline_s=1.0) as watched:
        for alone in (*[True] * (LEAST_RUNS + 1), False, True):
            assert await watched.score([1], alone=alone) == [4]
    inline = [thread is threading.main_thread() for thread in threads]
    assert inline == [*[False] * LEAST_RUNS, True, False, True]


async def test_a_job_that_takes_long_never_runs_on_the_loop():
    def slow(tensors):
        assert threading.current_thread() is not threading.main_thread()
        time.sleep(0.005)
        return graph(tensors)

    async with running(slow, inline_s=0.001) as watched:
        for _ in range(2 * LEAST_RUNS):
            assert await watched.score([1], alone=True) == [4]


async def test_a_lone_job_that_fails_on_the_loop_fails_like_any_other():
    async with running(inline_s=1.0) as watched:
        for _ in range(LEAST_RUNS):
            await watched.score([1], alone=True)
        with pytest.raises(InferenceError):
            await watched.score([CURSED], alone=True)


async def test_no_more_runs_at_a_time_than_permitted():
    now, most, lock = 0, 0, threading.Lock()

    def counted(tensors):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.002)
        with lock:
            now -= 1
        return graph(tensors)

    limits = Limits(max_requests=1, max_cells=100, chunk_candidates=10)
    async with running(counted, limits=limits, running=2, prepared=2) as watched:
        await asyncio.gather(*(watched.score([ad]) for ad in range(20, 40)))
    assert most == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
@pytest.mark.parametrize("nice", [0, 3, 19])
async def test_the_threads_that_run_the_graph_give_way_to_the_event_loop(nice):
    def niceness():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    seen = set()

    def watched_graph(tensors):
        seen.add(niceness())
        return graph(tensors)

    before = niceness()
    async with running(watched_graph, nice=nice) as watched:
        await asyncio.gather(*(watched.score([ad]) for ad in range(20, 40)))
    assert seen == {min(19, before + nice)}
    assert niceness() == before


async def test_one_engine_serves_several_graphs_each_with_its_own_answers():
    async with running(limits=Limits(max_requests=8, max_cells=100_000, chunk_candidates=64)) as watched:
        runs = [graph if ad % 2 else doubled for ad in range(50, 90)]
        got = await asyncio.gather(
            *(
                watched.score([ad], run=run, background=ad % 3 == 0)
                for ad, run in zip(range(50, 90), runs, strict=True)
            )
        )
    assert got == [[ad + 3] if ad % 2 else [2 * ad + 6] for ad in range(50, 90)]


async def test_a_job_in_the_background_never_runs_on_the_loop():
    threads = []

    def remember(tensors):
        threads.append(threading.current_thread())
        return graph(tensors)

    async with running(remember, inline_s=1.0) as watched:
        for background in (*[False] * LEAST_RUNS, True, False):
            assert await watched.score([1], alone=True, background=background) == [4]
    assert [thread is threading.main_thread() for thread in threads[-2:]] == [False, True]


async def test_what_is_forgotten_has_to_be_learnt_again():
    threads = []

    def remember(tensors):
        threads.append(threading.current_thread())
        return graph(tensors)

    async with running(remember, inline_s=1.0) as watched:
        for _ in range(LEAST_RUNS + 1):
            await watched.score([1], alone=True)
        assert watched.engine.expected_s(remember, 1, 2) > 0
        watched.engine.forget(remember)
        assert watched.engine.expected_s(remember, 1, 2) == 0
        await watched.score([1], alone=True)
    assert [thread is threading.main_thread() for thread in threads[-2:]] == [True, False]
