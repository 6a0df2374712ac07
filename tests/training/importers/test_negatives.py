import re

import numpy as np
import pytest

from contract.errors import InputError
from training.importers import negatives
from training.importers.negatives import Shown, parse_negatives, popular, uniform


def pairs(kept):
    return list(zip(kept.trip.tolist(), kept.slot.tolist(), strict=True))


@pytest.fixture(name="shown")
def _shown():
    # Groups of 4, 2 and 1 slots. Trip 0 buys slots 1 and 2, trip 2 buys slot 5, trip 3 all there is (6).
    return Shown(
        starts=np.array([0, 4, 6, 7]),
        group=np.array([0, 0, 1, 2]),
        bought_trip=np.array([0, 0, 2, 3]),
        bought_slot=np.array([1, 2, 5, 6]),
    )


@pytest.mark.parametrize(
    ("text", "kind", "per_trip"), [("uniform:1", "uniform", 1), ("popular:20", "popular", 20)]
)
def test_a_spec_names_sampler_and_count(text, kind, per_trip):
    spec = parse_negatives(text)
    assert (spec.kind, spec.per_trip) == (kind, per_trip)


@pytest.mark.parametrize(
    "text",
    [
        "popular:0",
        "foo:3",
        "popular",
        "popular:",
        "uniform:-1",
        "uniform:2.5",
        "uniform:020",
        "",
        "popular:٣",
    ],
)
def test_a_malformed_spec_is_refused_with_the_flag_and_the_allowed_forms(text):
    with pytest.raises(InputError, match=re.escape(f"--negatives {text!r}: expected uniform:K or popular:K")):
        parse_negatives(text)


def test_uniform_keeps_everything_at_rate_one_and_never_a_bought_slot(shown):
    kept = uniform(shown, 100, np.random.default_rng(0))
    assert kept.rate == 1.0
    assert pairs(kept) == [(0, 0), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3), (2, 4)]


def test_uniform_rate_is_k_over_the_mean_number_of_slots_not_bought(shown):
    # 7 slots were not bought in 4 trips.
    assert uniform(shown, 1, np.random.default_rng(0)).rate == pytest.approx(4 / 7)


def test_uniform_keeps_every_slot_equally_often_and_on_its_own(shown):
    draws = 4000
    rng = np.random.default_rng(1)
    counts = dict.fromkeys(pairs(uniform(shown, 100, rng)), 0)
    together = 0
    for _ in range(draws):
        drawn = pairs(uniform(shown, 1, rng))
        together += (1, 0) in drawn and (1, 1) in drawn
        for pair in drawn:
            counts[pair] += 1
    rate = 4 / 7
    spread = 4.5 * (draws * rate * (1 - rate)) ** 0.5
    assert all(abs(count - draws * rate) < spread for count in counts.values())
    assert abs(together - draws * rate**2) < spread


def test_uniform_spans_many_batches_of_gaps_without_bias():
    shown = Shown(np.array([0, 3000]), np.zeros(2000, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))
    kept = uniform(shown, 20, np.random.default_rng(2))
    assert abs(len(kept.trip) - 40_000) < 5 * 200
    assert len(set(pairs(kept))) == len(kept.trip)
    halves = np.bincount(kept.trip // 1000)
    assert abs(halves[0] - halves[1]) < 5 * 200


def test_popular_draws_k_of_the_others_or_all_and_only_for_trips_that_bought(shown):
    kept = popular(shown, 1, np.ones(7), np.random.default_rng(0))
    assert kept.rate is None
    assert np.bincount(kept.trip, minlength=4).tolist() == [1, 0, 1, 0]
    assert pairs(popular(shown, 50, np.ones(7), np.random.default_rng(0))) == [(0, 0), (0, 3), (2, 4)]


def test_popular_includes_slots_as_draws_one_after_another_by_weight_would():
    # Weights 1, 2, 5 and two draws: P(0) = 1/8 + 2/8 * 1/6 + 5/8 * 1/3, likewise for the others.
    weight = np.array([1.0, 2.0, 5.0, 9.0])
    total = weight[:3].sum()
    expected = [
        w / total + sum(v / total * w / (total - v) for j, v in enumerate(weight[:3]) if j != i)
        for i, w in enumerate(weight[:3])
    ]
    trips = 20_000
    bought = Shown(np.array([0, 4]), np.zeros(trips, np.int64), np.arange(trips), np.full(trips, 3))
    kept = popular(bought, 2, weight, np.random.default_rng(3))
    assert np.bincount(kept.trip).tolist() == [2] * trips
    assert np.bincount(kept.slot, minlength=4) / trips == pytest.approx([*expected, 0.0], abs=0.015)


def test_blocks_change_nothing_about_the_draw(shown, monkeypatch):
    many = Shown(
        np.array([0, 5, 9]),
        np.arange(40) % 2,
        np.arange(40),
        np.where(np.arange(40) % 2, 6, 2).astype(np.int64),
    )
    weight = np.arange(1.0, 10.0)
    whole = popular(many, 2, weight, np.random.default_rng(4))
    monkeypatch.setattr(negatives, "BLOCK_CELLS", 11)
    assert pairs(popular(many, 2, weight, np.random.default_rng(4))) == pairs(whole)


def test_no_trips_give_no_negatives():
    none = np.empty(0, np.int64)
    shown = Shown(np.array([0, 4]), none, none, none)
    assert pairs(uniform(shown, 3, np.random.default_rng(0))) == []
    assert pairs(popular(shown, 3, np.ones(4), np.random.default_rng(0))) == []
