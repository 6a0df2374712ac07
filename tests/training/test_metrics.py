"""Each metric against cases small enough to work out by hand, and against its definition."""

import math

import numpy as np
import pytest

from training import metrics


def _logit(*probabilities: float) -> np.ndarray:
    p = np.array(probabilities)
    return np.log(p) - np.log1p(-p)


def test_auc_counts_pairs_won_with_ties_half():
    # clicked .8 beats both others; clicked .4 beats .1 and ties with .4: (2 + 1.5) / 4
    clicked = np.array([1.0, 0.0, 1.0, 0.0])
    score = np.array([0.8, 0.4, 0.4, 0.1])

    assert metrics.auc(clicked, score) == 3.5 / 4


@pytest.mark.parametrize(
    ("score", "expected"), [([3.0, 2.0, 1.0], 1.0), ([1.0, 2.0, 3.0], 0.0), ([1.0] * 3, 0.5)]
)
def test_auc_of_perfect_backward_and_constant_scores(score, expected):
    assert metrics.auc(np.array([1.0, 0.0, 0.0]), np.array(score)) == expected


@pytest.mark.parametrize("clicked", [[], [0.0], [0.0, 0.0], [1.0, 1.0]])
def test_auc_needs_both_classes(clicked):
    assert math.isnan(metrics.auc(np.array(clicked), np.zeros(len(clicked))))


def test_gauc_weighs_users_by_rows_and_skips_users_of_one_class():
    user = np.array([7, 7, 3, 3, 3, 9, 9])
    clicked = np.array([1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    score = np.array([0.9, 0.1, 0.5, 0.6, 0.4, 0.9, 0.1])
    # user 7: 1 over 2 rows; user 3: 1/2 over 3 rows; user 9 never clicked

    assert metrics.gauc(user, clicked, score) == pytest.approx((2 * 1 + 3 * 0.5) / 5)


def test_gauc_of_users_of_one_class_only_is_undefined():
    assert math.isnan(metrics.gauc(np.array([1, 2]), np.array([1.0, 0.0]), np.zeros(2)))


def test_gauc_equals_the_pairwise_definition_on_random_rows_with_ties():
    rng = np.random.default_rng(0)
    user, clicked = rng.integers(0, 30, 500), (rng.random(500) < 0.3).astype(float)
    score = rng.integers(0, 6, 500).astype(float)
    total = rows = 0.0
    for one in np.unique(user):
        mine = user == one
        positive, negative = score[mine & (clicked == 1)], score[mine & (clicked == 0)]
        if len(positive) and len(negative):
            gap = positive[:, None] - negative
            total += mine.sum() * ((gap > 0) + (gap == 0) / 2).mean()
            rows += mine.sum()

    assert metrics.gauc(user, clicked, score) == pytest.approx(total / rows, abs=1e-12)


def test_the_order_of_rows_and_the_names_of_users_do_not_matter():
    rng = np.random.default_rng(1)
    user, clicked, score = rng.integers(0, 9, 80), rng.integers(0, 2, 80).astype(float), rng.normal(size=80)
    order = rng.permutation(80)
    names = np.array([f"u{one}" for one in user])

    assert metrics.gauc(names[order], clicked[order], score[order]) == pytest.approx(
        metrics.gauc(user, clicked, score), abs=1e-12
    )


def test_log_loss_is_weighted():
    clicked, logit = np.array([1.0, 0.0]), _logit(0.8, 0.4)

    got = metrics.log_loss(clicked, logit, np.array([1.0, 3.0]))

    assert got == pytest.approx((-math.log(0.8) - 3 * math.log(0.6)) / 4)


def test_log_loss_of_huge_logits_is_finite_and_right():
    assert metrics.log_loss(np.array([0.0, 1.0]), np.array([800.0, 800.0]), np.ones(2)) == 400.0


def test_ne_of_the_click_rate_itself_is_one():
    clicked, weight = np.array([1.0, 0.0, 0.0]), np.array([1.0, 2.0, 2.0])  # weighted rate .2

    assert metrics.normalized_entropy(clicked, _logit(0.2, 0.2, 0.2), weight) == pytest.approx(1.0)
    entropy = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    better = (-math.log(0.6) - 4 * math.log(0.9)) / 5
    assert metrics.normalized_entropy(clicked, _logit(0.6, 0.1, 0.1), weight) == pytest.approx(
        better / entropy
    )


def test_pcoc_is_predicted_over_observed_clicks():
    clicked, weight = np.array([1.0, 0.0]), np.array([1.0, 5.0])

    assert metrics.pcoc(clicked, _logit(0.5, 0.1), weight) == pytest.approx((0.5 + 0.5) / 1.0)
    assert math.isnan(metrics.pcoc(np.zeros(2), _logit(0.5, 0.1), weight))


def test_ece_adds_up_the_gap_of_each_bin():
    clicked = np.array([1.0, 0.0, 1.0, 1.0])
    logit = _logit(0.1, 0.2, 0.7, 0.9)
    # two bins of equal mass: |(.1 + .2)/2 - 1/2| and |(.7 + .9)/2 - 1|

    got = metrics.expected_calibration_error(clicked, logit, np.ones(4), bins=2)

    assert got == pytest.approx((0.35 + 0.2) / 2)


def test_ece_bins_have_equal_weight_not_equal_rows():
    clicked = np.array([0.0, 1.0, 1.0])
    logit = _logit(0.1, 0.3, 0.5)
    # mass 4 | 2 2: the first row fills the first bin alone

    got = metrics.expected_calibration_error(clicked, logit, np.array([4.0, 2.0, 2.0]), bins=2)

    assert got == pytest.approx((4 * 0.1 + abs(2 * -0.7 + 2 * -0.5)) / 8)


def test_ece_of_one_score_is_the_error_of_the_mean_whatever_the_order():
    clicked = np.array([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    logit = np.full(8, _logit(0.5))

    for order in (np.arange(8), np.argsort(clicked)):
        got = metrics.expected_calibration_error(clicked[order], logit, np.ones(8))
        assert got == pytest.approx(0.5 - 3 / 8)


def test_a_sharp_truth_has_no_calibration_error():
    logit = np.linspace(-3, 3, 4000)
    clicked = metrics.sigmoid(logit)  # in expectation

    assert metrics.expected_calibration_error(clicked, logit, np.ones(4000)) < 1e-12
    assert metrics.pcoc(clicked, logit, np.ones(4000)) == pytest.approx(1.0)


def test_all_metrics_come_in_one_table():
    user, clicked = np.array([1, 1, 2]), np.array([True, False, False])
    logit = np.array([0.3, -0.2, 0.1], dtype=np.float32)

    table = metrics.evaluate_metrics(user, clicked, logit, np.ones(3, dtype=np.float32))

    assert list(table) == ["rows", "users", "auc", "gauc", "log_loss", "ne", "pcoc", "ece"]
    assert (table["rows"], table["users"], table["gauc"], table["auc"]) == (3, 2, 1.0, 1.0)
    assert all(type(value) in (int, float) for value in table.values())


def test_nothing_to_score_is_nan_not_an_error():
    nothing = np.zeros(0)

    table = metrics.evaluate_metrics(nothing, nothing, nothing, nothing)

    assert table.pop("rows") == table.pop("users") == 0
    assert all(math.isnan(value) for value in table.values())


def test_rows_of_equal_score_share_a_bin_and_a_heavy_row_is_like_many():
    score, weight = np.array([0.5, 0.1, 0.5, 0.9]), np.array([1.0, 2.0, 1.0, 2.0])

    assert metrics.calibration_bins(score, weight, bins=3).tolist() == [1, 0, 1, 2]
    doubled = metrics.calibration_bins(np.array([0.5, 0.1, 0.1, 0.5, 0.9, 0.9]), np.ones(6), bins=3)
    assert doubled.tolist() == [1, 0, 0, 1, 2, 2]
