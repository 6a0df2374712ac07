"""The queue decides alone and at once, so every arrangement of jobs can be tried; time is a number."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching import padding
from service.batching.job import Job, Limits, Part
from service.batching.policy import PATIENCE, JobQueue

SOLO = Limits(max_requests=1, max_cells=10_000, chunk_candidates=100)
SHARED = Limits(max_requests=8, max_cells=10_000, chunk_candidates=100)


def job(
    candidates, length=10, *, deadline_s=math.inf, run=len, background=False, expected_s=0.0, submitted_s=0.0
):
    return Job(
        run=run,
        background=background,
        inputs={
            "history_x": np.arange(1, length + 1, dtype=np.int64)[None],
            "history_mask": np.ones((1, length), dtype=bool),
            "ad_x": np.arange(1, candidates + 1, dtype=np.int64)[None],
            "context_x": np.full((1, candidates), 0.5, dtype=np.float32),
            "user_x": np.array([7]),
        },
        candidates=candidates,
        length=length,
        deadline_s=deadline_s,
        submitted_s=submitted_s,
        expected_s=expected_s,
        logit_N=np.full(candidates, np.nan, dtype=np.float32),
    )


def drain(queue, now_s=0.0):
    runs = []
    while True:
        taken = queue.take(now_s)
        if not taken.parts:
            assert not len(queue)
            return runs
        runs.append(taken.parts)
        queue.returned(taken)


@given(
    jobs=st.lists(st.tuples(st.integers(1, 450), st.integers(1, 120)), min_size=1, max_size=30),
    max_requests=st.integers(1, 6),
    max_cells=st.integers(1, 20_000),
    chunk=st.integers(1, 200),
)
def test_every_candidate_is_run_once_and_in_order_within_the_limits(jobs, max_requests, max_cells, chunk):
    limits = Limits(max_requests=max_requests, max_cells=max_cells, chunk_candidates=chunk)
    queue = JobQueue(limits)
    waiting = [job(candidates, length) for candidates, length in jobs]
    for one in waiting:
        queue.push(one)
    seen = {id(one): 0 for one in waiting}
    for parts in drain(queue):
        assert len(parts) <= max_requests
        assert len({id(part.job) for part in parts}) == len(parts)
        cells = len(parts) * max(part.job.length for part in parts) * max(part.count for part in parts)
        assert cells <= max_cells or (len(parts) == 1 and parts[0].count == 1)
        for part in parts:
            assert part.start == seen[id(part.job)]
            assert 1 <= part.count <= chunk
            seen[id(part.job)] = part.stop
    assert [seen[id(one)] for one in waiting] == [one.candidates for one in waiting]


def test_alone_a_run_takes_what_waits_first():
    queue = JobQueue(SOLO)
    first, second = job(5), job(6)
    queue.push(first)
    queue.push(second)
    assert [[part.job for part in parts] for parts in drain(queue)] == [[first], [second]]


def test_those_who_wait_together_run_together():
    queue = JobQueue(SHARED)
    for candidates in (50, 60, 55):
        queue.push(job(candidates))
    assert [len(parts) for parts in drain(queue)] == [3]


def test_a_run_that_would_be_mostly_padding_is_not_shared():
    queue = JobQueue(SHARED)
    short, long, other = job(10, length=1), job(10, length=100), job(10, length=90)
    for one in (short, long, other):
        queue.push(one)
    assert [[part.job for part in parts] for parts in drain(queue)] == [[short], [long, other]]


def test_jobs_of_different_graphs_never_share_a_run():
    queue = JobQueue(SHARED)
    first, other, second = job(5), job(5, run=str), job(5)
    for one in (first, other, second):
        queue.push(one)
    assert [[part.job for part in parts] for parts in drain(queue)] == [[first, second], [other]]


def test_jobs_in_the_background_run_while_nothing_else_waits():
    queue = JobQueue(SHARED)
    behind, late = job(150, background=True), job(5)
    queue.push(behind)
    queue.push(late)
    assert queue.take(0.0).parts[0].job is late
    taken = queue.take(0.0)
    assert [part.count for part in taken.parts] == [100]
    queue.push(late := job(5))
    queue.returned(taken)
    assert [[part.job for part in parts] for parts in drain(queue)] == [[late], [behind]]


def test_a_small_request_passes_a_big_one_between_its_chunks():
    queue = JobQueue(SOLO)
    big, small = job(300, expected_s=0.3), job(1, expected_s=0.001, submitted_s=0.05)
    queue.push(big)
    first = queue.take(0.0)
    queue.push(small)
    queue.returned(first)
    order = [(part.job, part.count) for part in [first.parts[0], *[parts[0] for parts in drain(queue, 0.1)]]]
    assert order == [(big, 100), (small, 1), (big, 100), (big, 100)]


def test_nothing_passes_a_request_that_has_waited_long_for_its_size():
    queue = JobQueue(SOLO)
    big = job(10, expected_s=0.01)
    queue.push(big)
    soon, later = (job(10, expected_s=0.001, submitted_s=PATIENCE * at) for at in (0.005, 0.011))
    queue.push(later)
    queue.push(soon)
    assert [parts[0].job for parts in drain(queue, 1.0)] == [soon, big, later]


def test_a_deadline_makes_a_request_due_earlier():
    queue = JobQueue(SOLO)
    relaxed, pressed = job(10, expected_s=0.01), job(10, expected_s=0.02, deadline_s=0.05)
    queue.push(relaxed)
    queue.push(pressed)
    assert [parts[0].job for parts in drain(queue)] == [pressed, relaxed]


def test_one_chunk_of_a_request_runs_at_a_time():
    queue = JobQueue(SOLO, places=2)
    queue.push(job(200))
    first = queue.take(0.0)
    assert queue.take(0.0).parts == []
    queue.returned(first)
    assert queue.take(0.0).parts[0].start == 100


def test_the_last_place_is_kept_for_short_runs_but_not_for_long():
    queue = JobQueue(SOLO, places=2)
    for number in range(100):  # what is usual
        queue.push(job(10, expected_s=0.001, submitted_s=-1.0 - number))
    drain(queue)
    first, second = (job(10, expected_s=0.05) for _ in range(2))
    for one in (first, second):
        queue.push(one)
    running = queue.take(0.0)
    assert running.parts[0].job is first
    held = queue.take(0.01)
    assert held.parts == []
    assert held.again_s == pytest.approx(0.05)
    short = job(10, expected_s=0.001, submitted_s=0.02)
    queue.push(short)
    assert queue.take(0.02).parts[0].job is short
    assert queue.take(held.again_s).parts[0].job is second


def test_a_long_run_takes_the_place_that_another_has_left():
    queue = JobQueue(SOLO, places=2)
    first, second = (job(10, expected_s=0.05) for _ in range(2))
    queue.push(first)
    queue.push(second)
    running = queue.take(0.0)
    assert queue.take(0.0).parts == []
    queue.returned(running)
    assert queue.take(0.0).parts[0].job is second


def test_a_long_history_makes_chunks_smaller():
    queue = JobQueue(SOLO)
    queue.push(job(100, length=1000))
    assert [parts[0].count for parts in drain(queue)] == [10] * 10


def test_the_late_are_dropped_before_they_cost_anything():
    queue = JobQueue(SHARED)
    late, good = job(5, deadline_s=1.0), job(5, deadline_s=3.0)
    queue.push(late)
    queue.push(good)
    taken = queue.take(2.0)
    assert ([part.job for part in taken.parts], taken.late) == ([good], [late])


def test_what_has_begun_is_finished_in_spite_of_its_deadline():
    queue = JobQueue(SOLO)
    queue.push(job(150, deadline_s=1.0))
    taken = queue.take(0.5)
    assert taken.parts[0].count == 100
    queue.returned(taken)
    assert queue.take(2.0).parts[0].count == 50


def test_what_would_end_too_late_makes_room_for_others_but_is_tried_alone():
    queue = JobQueue(SOLO)
    hopeless, other = job(5, expected_s=0.2, deadline_s=1.0), job(5, submitted_s=0.85)
    queue.push(hopeless)
    queue.push(other)
    taken = queue.take(0.9)
    assert ([part.job for part in taken.parts], taken.late) == ([other], [hopeless])
    queue.push(job(5, expected_s=0.2, deadline_s=1.0))
    assert len(queue.take(0.9).parts) == 1


@pytest.mark.parametrize("fate", ["abandoned", "failed"])
def test_nothing_is_run_for_callers_who_left_or_know_of_their_failure(fate):
    queue = JobQueue(SHARED)
    gone, good = job(5), job(5)
    gone.abandoned = fate == "abandoned"
    gone.error = ValueError("x") if fate == "failed" else None
    queue.push(gone)
    queue.push(good)
    taken = queue.take(0.0)
    assert ([part.job for part in taken.parts], taken.late) == ([good], [])


def test_padding_is_zero_left_of_histories_and_right_of_candidates():
    joined = padding.join([Part(job(2, length=3), 0, 2), Part(job(3, length=2), 0, 3)])
    assert joined["history_x"].tolist() == [[1, 2, 3], [0, 1, 2]]
    assert joined["history_mask"].tolist() == [[True] * 3, [False, True, True]]
    assert joined["ad_x"].tolist() == [[1, 2, 0], [1, 2, 3]]
    assert joined["context_x"].tolist() == [[0.5, 0.5, 0.0], [0.5, 0.5, 0.5]]
    assert joined["user_x"].tolist() == [7, 7]
    assert {name: array.dtype for name, array in joined.items()} == {
        name: array.dtype for name, array in job(1).inputs.items()
    }


def test_answers_go_back_to_whom_they_belong():
    queue = JobQueue(Limits(max_requests=2, max_cells=10_000, chunk_candidates=2))
    first, second = job(3), job(2)
    queue.push(first)
    queue.push(second)
    for parts in drain(queue):
        joined = padding.join(parts)
        padding.split(parts, joined["ad_x"].astype(np.float32) * 10)
    assert first.logit_N.tolist() == [10, 20, 30]
    assert second.logit_N.tolist() == [10, 20]


def test_only_short_runs_are_shared_where_sharing_saves_little():
    limits = Limits(max_requests=8, max_cells=10_000, chunk_candidates=100, share_s=0.003)
    taken_of = {}
    for expected_s in (0.0, 0.0011, 0.0014, 0.004):
        queue = JobQueue(limits)
        for _ in range(5):
            queue.push(job(10, expected_s=expected_s))
        taken_of[expected_s] = [len(parts) for parts in drain(queue)]
    assert taken_of == {0.0: [1] * 5, 0.0011: [2, 2, 1], 0.0014: [2, 2, 1], 0.004: [1] * 5}


def test_a_shared_run_is_not_made_long_by_a_long_job():
    queue = JobQueue(Limits(max_requests=8, max_cells=10_000, chunk_candidates=100, share_s=0.003))
    short, long, other = (job(10, expected_s=seconds) for seconds in (0.001, 0.0025, 0.001))
    for each in (short, long, other):
        queue.push(each)
    assert [[part.job for part in parts] for parts in drain(queue)] == [[short, other], [long]]
