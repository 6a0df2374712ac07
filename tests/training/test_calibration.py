"""Calibration finds a and b, keeps the order, and says when it can't."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import InputError
from training.calibration import Calibration, fit_calibration
from training.metrics import pcoc, sigmoid


def _drawn(a: float, b: float, *, rows: int = 20_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Raw logits, and clicks whose true log-odds are a * raw + b."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(0.5, 1.5, rows)
    return raw, (rng.random(rows) < sigmoid(a * raw + b)).astype(float)


@pytest.mark.parametrize(("a", "b"), [(1.0, 0.0), (0.3, -4.0), (2.5, 1.0)])
def test_the_truth_is_found(a, b):
    raw, clicked = _drawn(a, b)

    got = fit_calibration(raw, clicked, np.ones(len(raw)))

    assert got.a == pytest.approx(a, rel=0.15)
    assert got.b == pytest.approx(b, abs=0.15)


@settings(max_examples=40, deadline=None)
@given(
    a=st.floats(0.05, 5),
    b=st.floats(-5, 3),
    unit=st.floats(1e-3, 1e3),
    shift=st.floats(-50, 50),
    seed=st.integers(0, 99),
)
def test_the_fit_is_the_minimum_whatever_the_scale_of_the_logits(a, b, unit, shift, seed):
    raw, clicked = _drawn(a, b, rows=800, seed=seed)
    if clicked.sum() in (0, len(clicked)):
        return
    weight = np.random.default_rng(seed).uniform(1, 9, len(raw))
    scaled = raw * unit + shift

    got = fit_calibration(scaled, clicked, weight)

    assert got.a > 0
    error = weight * (sigmoid(got.a * scaled + got.b) - clicked) / weight.sum()
    assert abs(error.sum()) < 1e-7
    if np.corrcoef(raw, clicked)[0, 1] > 0.1:
        assert abs(error @ (scaled - scaled.mean())) / scaled.std() < 1e-4


def test_weights_undo_the_sampling():
    """Of the rows that weren't clicked, one in ten is kept; weights 10 restore the true rate."""
    raw, clicked = _drawn(1.0, -3.0, rows=60_000)
    rng = np.random.default_rng(5)
    kept = (clicked == 1) | (rng.random(len(raw)) < 0.1)
    weight = np.where(clicked == 1, 1.0, 10.0)[kept]

    got = fit_calibration(raw[kept], clicked[kept], weight)

    assert got.b == pytest.approx(-3.0, abs=0.15)
    assert pcoc(clicked[kept], got.a * raw[kept] + got.b, weight) == pytest.approx(1.0, abs=1e-6)
    assert pcoc(clicked, got.a * raw + got.b, np.ones(len(raw))) == pytest.approx(1.0, abs=0.05)


def test_constant_logits_become_the_click_rate():
    got = fit_calibration(np.full(10, 3.0), np.array([1.0] * 2 + [0.0] * 8), np.ones(10))

    assert got.a == 1.0
    assert sigmoid(np.array([got.a * 3.0 + got.b]))[0] == pytest.approx(0.2)


def test_separable_logits_stay_finite_and_in_order():
    raw = np.array([-2.0, -1.0, 1.0, 2.0])

    got = fit_calibration(raw, (raw > 0).astype(float), np.ones(4))

    assert 0 < got.a < 1e3
    assert np.isfinite(got.apply(raw.astype(np.float32))).all()


def test_backward_logits_keep_their_order_and_become_nearly_constant():
    raw, clicked = _drawn(1.0, 0.0, rows=2000)

    got = fit_calibration(-raw, clicked, np.ones(2000))

    assert 0 < got.a < 0.02
    assert pcoc(clicked, got.a * -raw + got.b, np.ones(2000)) == pytest.approx(1.0, abs=1e-8)


def test_a_lone_click_among_many_rows_is_enough():
    raw = np.random.default_rng(0).normal(size=5000)
    clicked = np.zeros(5000)
    clicked[17] = 1.0

    got = fit_calibration(raw, clicked, np.ones(5000))

    assert np.isfinite([got.a, got.b]).all()
    assert pcoc(clicked, got.a * raw + got.b, np.ones(5000)) == pytest.approx(1.0, abs=1e-3)


def test_float32_logits_and_bool_clicks_will_do():
    raw, clicked = _drawn(1.0, -1.0, rows=2000)

    wide = fit_calibration(raw.astype(np.float32).astype(float), clicked, np.ones(2000))
    narrow = fit_calibration(raw.astype(np.float32), clicked.astype(bool), np.ones(2000, dtype=np.float32))

    assert (narrow.a, narrow.b) == pytest.approx((wide.a, wide.b))


def test_it_applies_in_float32_as_the_graph_does():
    raw = np.array([0.1, -7.3], dtype=np.float32)

    got = Calibration(1.7, -0.3).apply(raw)

    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, raw * np.float32(1.7) + np.float32(-0.3))
    np.testing.assert_array_equal(Calibration().apply(raw), raw)


@pytest.mark.parametrize(
    ("logit", "clicked", "weight", "message"),
    [
        ([], [], [], "has no rows; move validation_from"),
        ([0.0, 1.0], [0, 0], [1, 1], "0 of 2 validation rows are clicked"),
        ([0.0, 1.0], [1, 1], [1, 1], "2 of 2 validation rows are clicked"),
        ([0.0, np.nan], [0, 1], [1, 1], "1 scores are not finite"),
        ([0.0, 1.0], [0, 1], [1, 0], "a weight is not positive"),
        ([0.0, 1.0], [0, 1], [1, np.inf], "a weight is not positive"),
    ],
)
def test_what_can_not_be_calibrated_is_refused(logit, clicked, weight, message):
    with pytest.raises(InputError, match=r"^calibration: ") as caught:
        fit_calibration(np.array(logit), np.array(clicked), np.array(weight, dtype=float))

    assert message in str(caught.value)
