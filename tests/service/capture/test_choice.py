from random import Random

import pytest

from service.capture.choice import Choice


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def choice(*, sample=0.0, slow_s=0.0, per_second=0, seed=0, clock=None):
    return Choice(
        sample=sample, slow_s=slow_s, per_second=per_second, generator=Random(seed), clock=clock or Clock()
    )


def test_a_share_is_kept_and_a_seed_says_which():
    one, same = (choice(sample=0.1, seed=3) for _ in range(2))
    kept = [one.why(0.001) for _ in range(5000)]
    assert kept == [same.why(0.001) for _ in range(5000)]
    assert 400 < kept.count("sample") < 600
    assert set(kept) == {"sample", None}


@pytest.mark.parametrize(("sample", "expected"), [(0.0, None), (1.0, "sample")])
def test_none_or_all(sample, expected):
    chosen = choice(sample=sample)
    assert {chosen.why(0.0) for _ in range(1000)} == {expected}


def test_slow_ones_are_kept_whatever_the_sample():
    chosen = choice(slow_s=0.02)
    assert [chosen.why(seconds) for seconds in (0.0, 0.02, 0.0201, 9.0)] == [None, None, "slow", "slow"]
    assert choice(sample=1.0, slow_s=0.02).why(0.03) == "slow"


def test_no_more_in_a_second_than_allowed():
    clock = Clock()
    chosen = choice(sample=1.0, per_second=3, clock=clock)
    assert [chosen.admits() for _ in range(5)] == [True, True, True, False, False]
    clock.now_s += 0.99
    assert not chosen.admits()
    clock.now_s += 0.02
    assert [chosen.admits() for _ in range(4)] == [True, True, True, False]


def test_without_a_limit_all_are_admitted():
    chosen = choice(sample=1.0)
    assert all(chosen.admits() for _ in range(10_000))
