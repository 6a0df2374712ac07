"""Log-odds made true: p = sigmoid(a * logit + b), a > 0, fitted on validation.

Order is kept (a > 0), so ranking metrics don't change. Weights 1 / sampling rate make it the one place where
the sampling of the log is corrected.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contract.errors import InputError
from training.metrics import sigmoid

Floats = NDArray[np.float64]

_STEPS: Final = 100
_TOLERANCE: Final = 1e-10
_LOG_SLOPE_LIMIT: Final = 5.0  # beyond exp(+-5), standardised logits carry no order or separate the classes
_RIDGE: Final = 1e-6  # pulls log a to 0 with the strength of a millionth of the data


@dataclass(frozen=True)
class Calibration:
    """`logit = a * raw + b`."""

    a: float = 1.0
    """Slope, > 0."""
    b: float = 0.0
    """Shift, in log-odds."""

    def apply(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return calibrated log-odds, computed in float32 like the graph's."""
        calibrated: NDArray[np.float32] = np.float32(self.a) * raw + np.float32(self.b)
        return calibrated


def fit_calibration(
    logit: NDArray[np.floating[Any]], clicked: NDArray[np.generic], weight: NDArray[np.floating[Any]]
) -> Calibration:
    """Minimise the weighted log loss over log a and b by Newton's method.

    Logits that are all equal keep a = 1; logits that separate the classes, or order them backwards, end at the
    limits of a.

    Args:
        logit: `[n]` raw log-odds.
        clicked: `[n]` 0 or 1.
        weight: `[n]` 1 / sampling rate, > 0.

    Raises:
        InputError: no rows, one class only, a logit that isn't finite, or a weight that isn't positive.

    """
    x = np.asarray(logit, dtype=np.float64)
    y = np.asarray(clicked, dtype=np.float64)
    w = np.asarray(weight, dtype=np.float64)
    _check(x, y, w)
    w = w / w.sum()
    rate = float(w @ y)
    centre = float(w @ x)
    spread = float(np.sqrt(w @ np.square(x - centre)))
    base = float(np.log(rate) - np.log1p(-rate))
    if spread < _TOLERANCE * max(1.0, abs(centre)):
        return Calibration(1.0, base - centre)
    log_a, shift = _newton((x - centre) / spread, y, w, start=(float(np.log(min(spread, 1.0))), base))
    # Back from standardised logits: a is a slope per unit of them.
    a = float(np.exp(log_a)) / spread
    return Calibration(a, shift - a * centre)


def _check(x: Floats, y: Floats, w: Floats) -> None:
    if not x.size:
        raise InputError("calibration: the validation split has no rows; move validation_from or test_from")
    if not np.isfinite(x).all():
        raise InputError(f"calibration: {int((~np.isfinite(x)).sum())} scores are not finite; train again")
    if not ((w > 0) & np.isfinite(w)).all():
        raise InputError("calibration: a weight is not positive; sampling rates must lie in (0, 1]")
    clicks = int(y.sum())
    if clicks in (0, y.size):
        raise InputError(
            f"calibration: {clicks} of {y.size} validation rows are clicked, so there is nothing to compare; "
            "move validation_from or test_from"
        )


def _newton(x: Floats, y: Floats, w: Floats, *, start: tuple[float, float]) -> tuple[float, float]:
    """Return (log a, b) for standardised logits; damped so that every step lowers the loss."""
    theta = np.array(start)
    loss = _loss(theta, x, y, w)
    for _ in range(_STEPS):
        step = _newton_step(theta, x, y, w)
        size = 1.0
        while size > _TOLERANCE:
            trial = theta - size * step
            trial[0] = np.clip(trial[0], -_LOG_SLOPE_LIMIT, _LOG_SLOPE_LIMIT)
            trial_loss = _loss(trial, x, y, w)
            if trial_loss <= loss:
                break
            size /= 2
        else:
            break
        moved = float(np.abs(trial - theta).max())
        theta, loss = trial, trial_loss
        if moved < _TOLERANCE:
            break
    return float(theta[0]), _best_shift(theta, x, y, w)


def _best_shift(theta: Floats, x: Floats, y: Floats, w: Floats) -> float:
    """Return the best b for this a: a slope at its limit leaves the joint steps short of it."""
    scaled, b = np.exp(theta[0]) * x, float(theta[1])
    for _ in range(_STEPS):
        p = sigmoid(scaled + b)
        step = float(w @ (p - y)) / float(w @ (p * (1 - p)))
        b -= step
        if abs(step) < _TOLERANCE:
            break
    return b


def _loss(theta: Floats, x: Floats, y: Floats, w: Floats) -> float:
    z = np.exp(theta[0]) * x + theta[1]
    return float(w @ (np.logaddexp(0.0, z) - y * z)) + _RIDGE * float(theta[0]) ** 2 / 2


def _newton_step(theta: Floats, x: Floats, y: Floats, w: Floats) -> Floats:
    """Return H^-1 g; where the loss isn't convex in log a, the Gauss-Newton matrix stands in for H."""
    slope = np.exp(theta[0])
    p = sigmoid(slope * x + theta[1])
    error, curvature = w * (p - y), w * p * (1 - p)
    toward = slope * x  # d logit / d log a
    gradient = np.array([error @ toward + _RIDGE * theta[0], error.sum()])
    cross = curvature @ toward
    gauss = np.array([[curvature @ np.square(toward) + _RIDGE, cross], [cross, curvature.sum()]])
    gauss[1, 1] += _RIDGE * _TOLERANCE
    newton = gauss + np.array([[error @ toward, 0.0], [0.0, 0.0]])
    matrix = newton if newton[0, 0] > 0 and np.linalg.det(newton) > 0 else gauss
    step: Floats = np.linalg.solve(matrix, gradient)
    if abs(theta[0]) >= _LOG_SLOPE_LIMIT and step[0] * theta[0] < 0:
        # At its limit and pushed outward, the slope stays and the shift finds its own minimum.
        return np.array([0.0, gradient[1] / matrix[1, 1]])
    return step
