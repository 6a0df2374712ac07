"""Draws that do not depend on who else is drawn for."""

import numpy as np

from training.importers.draws import mixed, uniform


def test_a_draw_depends_on_its_own_numbers_alone():
    users = np.arange(1000, dtype=np.uint32)
    assert np.array_equal(uniform(3, 1, users)[500:], uniform(3, 1, users[500:]))


def test_seeds_streams_and_order_of_the_parts_matter():
    users = np.arange(1000, dtype=np.uint32)
    for other in (uniform(4, 1, users), uniform(3, 2, users), uniform(3, users, 1)):
        assert abs(np.corrcoef(uniform(3, 1, users), other)[0, 1]) < 0.1


def test_draws_are_even():
    drawn = uniform(0, np.arange(100_000, dtype=np.uint32))
    counts, _ = np.histogram(drawn, 20, (0, 1))
    assert abs(counts - 5000).max() < 5 * 5000**0.5
    assert 0 <= drawn.min() <= drawn.max() < 1


def test_words_of_different_numbers_differ():
    assert len(np.unique(mixed(0, np.arange(100_000)))) == 100_000
