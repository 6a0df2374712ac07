"""Who is let in: a matter of numbers alone, the clock among them."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching import lag
from service.batching.admission import Admission
from service.batching.fit import LEAST_RUNS, RunTimeFit
from service.batching.lag import BEARABLE_S, LagGuard
from service.errors import DeadlineOutOfReachError, LoopBehindError, OverloadedError

TRUTH = (30e-6, 0.12e-6, 0.45e-6, 2.5e-9)
SIZES = [(10, 20), (500, 5000), (100, 1000), (30, 200), (250, 50), (11, 4000), (1, 1), (77, 2500)]


def truth_s(candidates, length):
    a, b, c, d = TRUTH
    return a + b * length + c * candidates + d * candidates * length


def test_admission_is_whole_or_not_at_all():
    admission = Admission(10)
    first = admission.enter(6)
    with pytest.raises(OverloadedError, match="5 more do not fit"):
        admission.enter(5)
    assert (admission.inside, admission.requests) == (6, 1)
    second = admission.enter(4)
    admission.leave(first)
    admission.leave(second)
    assert (admission.inside, admission.requests) == (0, 0)


@given(candidates=st.lists(st.integers(1, 50), max_size=60), leavers=st.randoms())
def test_admission_never_holds_more_than_fits_and_forgets_nobody(candidates, leavers):
    admission, inside = Admission(200), []
    for count in candidates:
        try:
            inside.append(admission.enter(count, expected_s=count * 0.1))
        except OverloadedError:
            assert sum(ticket.candidates for ticket in inside) + count > 200
        if inside and leavers.random() < 0.4:
            admission.leave(inside.pop(leavers.randrange(len(inside))))
        assert admission.inside == sum(ticket.candidates for ticket in inside) <= 200
        assert admission.requests == len(inside)


def full(work_s, *, places=1, each_s=0.01):
    """Work inside that has waited so long that nothing passes it."""
    admission = Admission(10**6, places=places)
    for _ in range(round(work_s / each_s)):
        admission.enter(1, now_s=-1000.0, expected_s=each_s)
    return admission


def test_what_can_not_be_answered_in_time_is_refused_and_told_what_was_expected():
    admission = full(0.1)
    admission.enter(1, expected_s=0.01, deadline_s=0.2)
    with pytest.raises(DeadlineOutOfReachError, match=r"160\.0 ms \(150\.0 ms of waiting.*50\.0 ms are left"):
        admission.enter(1, expected_s=0.01, deadline_s=0.05)
    assert admission.requests == 11


def test_the_work_inside_is_shared_by_all_places():
    full(0.1, places=2).enter(1, expected_s=0.01, deadline_s=0.09)
    with pytest.raises(DeadlineOutOfReachError):
        full(0.1, places=1).enter(1, expected_s=0.01, deadline_s=0.09)


def test_a_short_request_is_let_in_where_a_long_one_is_not():
    admission = Admission(10**6)
    for _ in range(3):
        admission.enter(1, now_s=-0.71, expected_s=0.1)
    admission.enter(1, expected_s=0.001, deadline_s=0.02)
    with pytest.raises(DeadlineOutOfReachError):
        admission.enter(1, expected_s=0.1, deadline_s=0.2)


def test_until_run_times_are_known_nothing_is_refused_and_without_a_deadline_never():
    full(10.0).enter(1, expected_s=0.0, deadline_s=0.001)
    full(10.0).enter(1, expected_s=5.0, deadline_s=math.inf)


def test_a_lone_request_is_never_refused_for_its_deadline():
    admission = Admission(10)
    ticket = admission.enter(1, expected_s=5.0, deadline_s=0.001)
    admission.check(ticket, now_s=0.0, expected_s=9.0, deadline_s=0.001)


def test_a_request_is_looked_at_again_once_its_size_is_known():
    admission = full(0.02)
    ticket = admission.enter(1, expected_s=0.01, deadline_s=0.1)
    admission.check(ticket, now_s=0.0, expected_s=0.05, deadline_s=0.1)
    with pytest.raises(DeadlineOutOfReachError):
        admission.check(ticket, now_s=0.0, expected_s=0.09, deadline_s=0.1)
    assert admission.requests == 3
    admission.leave(ticket)


def test_what_answers_take_outside_the_engine_counts_against_deadlines():
    admission = full(0.01)
    admission.enter(1, expected_s=0.01, deadline_s=0.1)
    for _ in range(200):
        admission.answered(0.09)
    with pytest.raises(DeadlineOutOfReachError):
        admission.enter(1, expected_s=0.01, deadline_s=0.1)


@pytest.mark.parametrize(("work_s", "places", "seconds"), [(0.1, 1, 1), (3.2, 1, 4), (3.2, 2, 2)])
def test_retry_after_is_when_the_work_inside_should_be_done(work_s, places, seconds):
    with pytest.raises(DeadlineOutOfReachError) as refused:
        full(work_s, places=places).enter(1, expected_s=0.01, deadline_s=0.02)
    assert refused.value.retry_after_s == seconds


def test_a_request_is_lonely_while_others_seldom_come_at_the_same_time():
    admission = Admission(100)

    def come_and_go(together):
        inside = [admission.enter(1) for _ in range(together)]
        lonely = admission.lonely
        for ticket in inside:
            admission.leave(ticket)
        return lonely

    assert [come_and_go(1), come_and_go(2), come_and_go(1)] == [True, False, True]
    for _ in range(40):
        come_and_go(3)
    assert not come_and_go(1)
    for _ in range(40):
        come_and_go(1)
    assert come_and_go(1)


# ---------------------------------------------------------------- the event loop


def behind(admission, *, until_s, lag_s=0.01, step_s=0.001):
    now_s = 0.0
    while now_s < until_s:
        admission.meet(lag_s, now_s)
        now_s += step_s
    return now_s


def test_requests_are_refused_unread_while_the_loop_costs_deadlines():
    admission = full(0.1)
    admission.answered(0.002)
    now_s = behind(admission, until_s=1.0)
    with pytest.raises(DeadlineOutOfReachError):
        admission.enter(1, now_s=now_s, expected_s=0.01, deadline_s=now_s + 0.05)
    with pytest.raises(LoopBehindError, match=r"wait 10\.0 ms"):
        admission.meet(0.01, now_s)
    admission.meet(BEARABLE_S / 2, now_s)
    admission.meet(0.01, now_s + 2 * lag.ALARM_S)


def test_just_out_of_an_overload_a_lone_request_is_not_refused_for_long_turns_of_its_own():
    admission = Admission(10**6)
    tickets = [admission.enter(1, now_s=-1000.0, expected_s=0.01) for _ in range(10)]
    admission.answered(0.002)
    now_s = behind(admission, until_s=1.0)
    with pytest.raises(DeadlineOutOfReachError):
        admission.enter(1, now_s=now_s, expected_s=0.01, deadline_s=now_s + 0.05)
    with pytest.raises(LoopBehindError):
        admission.meet(0.01, now_s)
    for ticket in tickets:
        admission.leave(ticket)
    admission.meet(0.01, now_s)


def test_callers_who_wait_for_the_loop_without_deadlines_are_left_alone():
    behind(full(10.0), until_s=5.0)


def test_a_deadline_that_nobody_could_keep_alarms_nobody():
    admission = full(0.1)
    for _ in range(200):
        admission.answered(0.002)
    now_s = behind(admission, until_s=1.0)
    with pytest.raises(DeadlineOutOfReachError):
        admission.enter(1, now_s=now_s, expected_s=0.01, deadline_s=now_s + 0.005)
    admission.meet(0.01, now_s)


def test_the_alarm_ends_with_the_queue():
    guard = LagGuard()
    for step in range(100):
        guard.refuses(0.01, step * 0.001)
    guard.alarm(0.1)
    assert guard.refuses(0.01, 0.1)
    for step in range(400):
        guard.refuses(0.0, 0.1 + step * 0.001)
    assert not guard.refuses(0.01, 0.6)


def test_a_passing_queue_before_the_loop_alarms_nobody():
    guard = LagGuard()
    for step in range(1000):
        guard.refuses(0.01 if step % 20 == 0 else 0.0001, step * 0.001)
    guard.alarm(1.0)
    assert not guard.refuses(0.01, 1.0)


# ---------------------------------------------------------------- run times


@pytest.mark.parametrize("seed", range(10))
def test_run_times_are_learnt_within_some_hundred_runs(seed):
    fit, noise = RunTimeFit(), random.Random(seed)
    for _ in range(400):
        candidates, length = noise.choice(SIZES)
        seconds = truth_s(candidates, length) * noise.uniform(0.95, 1.05)
        fit.ran(seconds, candidates=candidates, length=length)
    for candidates, length in SIZES:
        assert fit.expected_s(candidates, length) == pytest.approx(truth_s(candidates, length), rel=0.35)


@given(
    runs=st.lists(
        st.tuples(st.floats(1e-7, 10), st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 32)),
        max_size=60,
    )
)
def test_a_larger_run_is_never_expected_to_be_shorter(runs):
    fit = RunTimeFit()
    for seconds, candidates, length, requests in runs:
        fit.ran(seconds, candidates=candidates, length=length, requests=requests)
    steps = [fit.expected_s(size, size) for size in (1, 10, 100, 1000)]
    assert all(map(math.isfinite, steps))
    assert steps == sorted(steps)
    assert steps[0] >= 0


def test_runs_of_one_size_are_enough_to_know_that_size():
    fit = RunTimeFit()
    for _ in range(LEAST_RUNS):
        assert not fit.known
        fit.ran(0.02, candidates=3, length=7)
    assert fit.known
    assert fit.expected_s(3, 7) == pytest.approx(0.02, rel=0.01)


def test_a_machine_that_slows_down_is_noticed():
    fit = RunTimeFit()
    for factor in (1, 20):
        for _ in range(800):
            for candidates, length in SIZES[:4]:
                fit.ran(factor * truth_s(candidates, length), candidates=candidates, length=length)
        assert fit.expected_s(100, 1000) == pytest.approx(factor * truth_s(100, 1000), rel=0.3)


def test_one_run_whose_thread_was_away_changes_little():
    fit = RunTimeFit()
    for _ in range(100):
        fit.ran(0.001, candidates=100, length=1000)
    fit.ran(1.0, candidates=100, length=1000)
    assert fit.expected_s(100, 1000) < 0.0012
