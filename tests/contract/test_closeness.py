"""Which differences in log-odds pass."""

import numpy as np
import pytest

from contract.closeness import Closeness

PLAIN, PICKS = Closeness(1e-4), Closeness(1e-4, hard_routing=True)


def _differences(count: int, *, off: int, by: float) -> np.ndarray:
    return np.concatenate([np.full(off, by), np.full(count - off, 9e-5)])


@pytest.mark.parametrize(
    ("off", "by", "plain", "picks"),
    [
        (0, 0.0, True, True),
        (1, 1.1e-4, False, True),
        (10, 0.05, False, True),
        (11, 1.1e-4, False, False),
        (1, 0.051, False, False),
        (1, np.nan, False, False),
        (1, np.inf, False, False),
    ],
)
def test_of_a_thousand_scores(off, by, plain, picks):
    difference = _differences(1000, off=off, by=by)
    assert PLAIN.holds(difference) == plain
    assert PICKS.holds(difference) == picks
    assert PICKS.beyond(difference).sum() == off


def test_few_scores_give_no_one_a_share():
    assert not PICKS.holds(_differences(99, off=1, by=2e-4))
    assert PICKS.holds(np.zeros(0))


def test_a_tolerance_above_what_picks_may_do_stays_the_tolerance():
    assert Closeness(0.2, hard_routing=True).farthest == 0.2


def test_where_tables_were_rounded_few_scores_may_be_as_far_as_the_farthest_was_found():
    rounded = Closeness(2e-3, measured=3e-3)
    assert rounded.holds(_differences(1000, off=10, by=3e-3))
    assert not rounded.holds(_differences(1000, off=11, by=3e-3))
    assert not rounded.holds(_differences(1000, off=1, by=3.1e-3))
    assert str(rounded) == "0.002, for 1% of the scores 0.003"


def test_a_farthest_score_that_was_near_gives_no_one_a_share():
    assert Closeness(2e-3, measured=1e-3).share == 0
    assert Closeness(1e-4, hard_routing=True, measured=0.8).farthest == 0.8
