"""The bootstrap against resampled rows, against simulated truth, and where nothing can be drawn."""

import math

import numpy as np
import pytest

from training.bootstrap import METRICS, Rows, metric_differences, metric_intervals, ratio_intervals
from training.metrics import evaluate_metrics, sigmoid
from training.replicates import replicate_metrics, user_draws


def some_rows(seed: int = 0, *, users: int = 25, rows: int = 900, levels: int | None = None, weighted=True):
    """Return rows and two scores of them; `levels` rounds the scores, so that many tie."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, rows)
    truth = rng.normal(-1.5, 1.0, rows) + 0.5 * rng.normal(size=users)[user]
    clicked = (rng.random(rows) < sigmoid(truth)).astype(float)
    weight = rng.choice([1.0, 4.0, 10.0], rows) if weighted else np.ones(rows)
    scores = [truth + rng.normal(0, noise, rows) for noise in (0.3, 1.5)]
    if levels is not None:
        scores = [np.round(score * levels) / levels for score in scores]
    return Rows(user, clicked, weight), scores


@pytest.mark.parametrize("levels", [None, 2], ids=["distinct scores", "ties"])
@pytest.mark.parametrize("weighted", [True, False])
def test_a_draw_is_the_metric_of_the_rows_drawn(levels, weighted):
    rows, scores = some_rows(levels=levels, weighted=weighted)
    got_BSM = replicate_metrics(rows, scores, replicates=20, seed=3)
    counts = np.concatenate(list(user_draws(25, replicates=20, seed=3)))
    for b, count_U in enumerate(counts.astype(int)):
        # GAUC's users: each copy of a user is one more user of the sample
        copies = [(np.flatnonzero(rows.user == u), k) for u in range(25) for k in range(count_U[u])]
        picked = np.concatenate([mine for mine, _ in copies])
        names = np.concatenate([np.full(len(mine), i) for i, (mine, _) in enumerate(copies)])
        for s, score in enumerate(scores):
            want = evaluate_metrics(names, rows.clicked[picked], score[picked], rows.weight[picked])
            assert got_BSM[b, s] == pytest.approx([want[name] for name in METRICS], abs=1e-9)


def test_every_draw_holds_as_many_users_as_there_are_and_seeds_repeat():
    first, again = (np.concatenate(list(user_draws(50, replicates=30, seed=1))) for _ in range(2))
    assert (first.sum(1) == 50).all()
    assert (first == again).all()
    assert (first != np.concatenate(list(user_draws(50, replicates=30, seed=2)))).any()


def test_blocks_of_draws_are_the_draws_of_one_block(monkeypatch):
    whole = np.concatenate(list(user_draws(40, replicates=11, seed=1)))
    monkeypatch.setattr("training.replicates._DRAW_CELLS", 120)
    assert [len(block) for block in user_draws(40, replicates=11, seed=1)] == [3, 3, 3, 2]
    assert (np.concatenate(list(user_draws(40, replicates=11, seed=1))) == whole).all()


def test_intervals_hold_the_value_and_shrink_with_more_users():
    widths = []
    for users in (40, 640):
        rows, (score, _) = some_rows(users=users, rows=20 * users)
        found = metric_intervals(rows, score, replicates=200)
        assert all(
            found[name].low < found[name].value < found[name].high for name in METRICS if name != "ece"
        )
        widths.append(found["auc"].high - found["auc"].low)
    assert widths[1] < widths[0] / 2.5  # 4 in expectation


def simulate(rng: np.random.Generator) -> tuple[Rows, np.ndarray]:
    """Return 60 users of 15 rows; a user's clicks are alike, so rows are not independent."""
    user = np.repeat(np.arange(60), 15)
    score = rng.normal(-1, 1, 900)
    clicked = (rng.random(900) < sigmoid(score + 0.8 * rng.normal(size=60)[user])).astype(float)
    return Rows(user, clicked, np.ones(900)), score


def test_nineteen_of_twenty_intervals_hold_the_truth():
    rng = np.random.default_rng(5)
    samples = [simulate(rng) for _ in range(600)]
    truth = {
        name: np.mean([evaluate_metrics(r.user, r.clicked, s, r.weight)[name] for r, s in samples])
        for name in ("auc", "log_loss", "pcoc", "ne")
    }
    held = dict.fromkeys(truth, 0)
    for rows, score in samples[:200]:
        found = metric_intervals(rows, score, replicates=120)
        for name, value in truth.items():
            held[name] += found[name].low <= value <= found[name].high
    # .95 of 200, 4 deviations either way; rows drawn one by one would hold .8 of PCOC
    assert all(count >= 0.87 * 200 for count in held.values()), held


def test_the_interval_of_ece_leans_to_where_the_truth_is_and_the_draws_away_from_it():
    rng = np.random.default_rng(2)
    score = rng.normal(-1, 1, 2000)  # the true probabilities: whatever ECE there is, noise made it
    rows = Rows(np.arange(2000), (rng.random(2000) < sigmoid(score)).astype(float), np.ones(2000))
    found = metric_intervals(rows, score, replicates=200)["ece"]
    drawn = replicate_metrics(rows, [score], replicates=200, seed=0)[:, 0, METRICS.index("ece")]
    assert 0 <= found.low < found.high
    assert (found.low + found.high) / 2 < found.value < drawn.mean()


def test_a_difference_is_paired_so_that_equal_scores_differ_by_nothing():
    rows, (score, other) = some_rows()
    same = metric_differences(rows, score, score, replicates=50)
    assert all((d.value, d.low, d.high, d.significant) == (0.0, 0.0, 0.0, False) for d in same.values())

    apart = metric_differences(rows, score, other, replicates=200)
    alone = [metric_intervals(rows, each, replicates=200)["auc"] for each in (score, other)]
    assert apart["auc"].significant
    assert apart["auc"].low > 0
    unpaired = math.hypot(*(each.high - each.low for each in alone))
    assert apart["auc"].high - apart["auc"].low < unpaired


def test_of_one_user_or_one_class_there_is_no_interval():
    rows, (score, _) = some_rows()
    alone = metric_intervals(rows.where(rows.user == 3), score[rows.user == 3], replicates=20)
    assert not math.isnan(alone["auc"].value)
    assert all(math.isnan(each.low) and math.isnan(each.high) for each in alone.values())

    never = Rows(rows.user, np.zeros(len(rows.user)), rows.weight)
    found = metric_intervals(never, score, replicates=20)
    for name in ("auc", "gauc", "ne", "pcoc"):
        assert math.isnan(found[name].value)
        assert math.isnan(found[name].low)
    assert found["log_loss"].low < found["log_loss"].value < found["log_loss"].high
    assert not metric_differences(never, score, score + 1, replicates=20)["auc"].significant


def test_gauc_of_a_single_user_with_both_classes_has_no_interval():
    user = np.array([0, 0, 1, 1, 2, 2])
    rows = Rows(user, np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0]), np.ones(6))
    found = metric_intervals(rows, np.array([1.0, 0.0, 0.2, 0.1, 0.4, 0.3]), replicates=50)
    assert found["gauc"].value == 1.0
    assert math.isnan(found["gauc"].low)


def test_no_rows_give_no_figures():
    empty = Rows(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0))
    assert all(math.isnan(each.value) for each in metric_intervals(empty, np.zeros(0), replicates=5).values())
    assert ratio_intervals(np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0)) == []


def test_ratios_of_groups_are_those_of_the_rows_drawn():
    rng = np.random.default_rng(4)
    user, group = rng.integers(0, 30, 400), rng.integers(0, 3, 400)
    top, bottom = rng.random(400), rng.random(400) + 0.1
    counts = np.concatenate(list(user_draws(30, replicates=200, seed=9)))[:, user]
    for g, found in enumerate(ratio_intervals(user, group, top, bottom, replicates=200, seed=9)):
        inside = group == g
        drawn = (counts[:, inside] @ top[inside]) / (counts[:, inside] @ bottom[inside])
        assert found.value == pytest.approx(top[inside].sum() / bottom[inside].sum())
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_ratios_relative_to_others_are_drawn_with_them():
    rng = np.random.default_rng(6)
    user, group = rng.integers(0, 40, 600), np.zeros(600, dtype=np.int64)
    top, bottom = rng.random(600) * (1 + user % 7), np.ones(600)
    most = (rng.random(600) < 0.9).astype(float)  # of the rows: their ratio hardly differs from that of all
    (found,) = ratio_intervals(
        user, group, most * top, most * bottom, relative_to=(top, bottom), replicates=200, seed=9
    )
    counts = np.concatenate(list(user_draws(40, replicates=200, seed=9)))[:, user]
    drawn = (counts @ (most * top)) / (counts @ (most * bottom)) / ((counts @ top) / (counts @ bottom))
    assert found.value == pytest.approx((most @ top) / most.sum() / top.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    (alone,) = ratio_intervals(user, group, most * top, most * bottom, replicates=200, seed=9)
    assert found.high - found.low < 0.2 * (alone.high - alone.low) / alone.value


def test_a_group_of_one_user_or_of_nothing_has_no_interval():
    user, group = np.array([0, 0, 1, 2]), np.array([0, 0, 2, 2])
    lone, empty, two = ratio_intervals(user, group, np.ones(4), np.array([2.0, 2.0, 1.0, 4.0]), replicates=99)
    assert lone.value == 0.5
    assert math.isnan(lone.low)
    assert math.isnan(empty.value)
    assert two.low < two.value < two.high


def test_a_group_to_which_one_user_alone_adds_anything_has_no_interval():
    user, group = np.repeat(np.arange(20), 2), np.tile([0, 1], 20)
    bottom = np.where((group == 0) | (user == 7), 1.0 + user, 0.0)
    everyone, lone = ratio_intervals(user, group, bottom * (user % 3), bottom, replicates=200)
    assert everyone.low < everyone.value < everyone.high
    assert lone.value == 1
    assert math.isnan(lone.low)
