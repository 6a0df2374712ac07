"""A number depends on its name alone, and numbers of different names are as independent as a test can see."""

import numpy as np
import pytest

from training.synthesize.draws import Draws, Purpose, choose

UNITS = np.arange(200_000)


def test_a_number_depends_on_its_name_alone():
    draws = Draws(3)
    some = draws.uniform(Purpose.EVENTS, np.array([7, 2, 7]), np.array([0, 1, 1]))
    every = draws.uniform(Purpose.EVENTS, np.arange(10)[:, None], np.arange(2)[None, :])
    assert some.tolist() == [every[7, 0], every[2, 1], every[7, 1]]


@pytest.mark.parametrize("purpose", [Purpose.EVENTS, Purpose.CLICK])
def test_numbers_are_uniform_over_units(purpose):
    counts = np.bincount((Draws(0).uniform(purpose, UNITS) * 100).astype(int), minlength=100)
    squares = ((counts - 2_000) ** 2 / 2_000).sum()
    assert 50 < squares < 160  # chi-square with 99 degrees of freedom: beyond either end once in 10,000


def test_names_that_differ_in_one_part_are_uncorrelated():
    base = Draws(0).uniform(Purpose.CLICK, UNITS)
    others = [
        Draws(1).uniform(Purpose.CLICK, UNITS),
        Draws(0).uniform(Purpose.EVENTS, UNITS),
        Draws(0).uniform(Purpose.CLICK, UNITS + 1),
        Draws(0).uniform(Purpose.CLICK, UNITS, 1),
    ]
    for other in others:
        assert abs(np.corrcoef(base, other)[0, 1]) < 4 / np.sqrt(len(UNITS))


def test_normal_numbers_are_normal():
    drawn = Draws(0).normal(Purpose.AD_QUALITY, UNITS)
    assert drawn.mean() == pytest.approx(0, abs=0.01)
    assert drawn.std() == pytest.approx(1, abs=0.01)
    assert np.mean(np.abs(drawn) < 1.96) == pytest.approx(0.95, abs=0.003)


def test_a_choice_is_in_proportion_to_the_weights():
    chosen = choose(np.cumsum([1.0, 0.0, 3.0]), Draws(0).uniform(Purpose.CLICK, UNITS))
    assert (np.bincount(chosen, minlength=3) / len(UNITS)).tolist() == pytest.approx(
        [0.25, 0, 0.75], abs=0.01
    )
