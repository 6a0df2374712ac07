"""How far a metric would move with other users: 95 % intervals by a paired bootstrap over users.

B draws, U users, R rows, S scores, M metrics, G groups of rows, C cells (user and group).
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.metrics import evaluate_metrics
from training.replicates import METRICS, Floats, Ints, Rows, ratio, replicate_metrics, user_draws

__all__ = [
    "METRICS",
    "REPLICATES",
    "Difference",
    "Interval",
    "Rows",
    "metric_differences",
    "metric_intervals",
    "ratio_intervals",
]

REPLICATES: Final = 1000
CONFIDENCE: Final = 0.95

_NEEDED: Final = 0.5  # an interval needs this share of the draws to be defined


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval; NaN where either isn't defined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A metric of two scores of the same rows, and the interval of `a - b`."""

    a: float
    b: float
    low: float
    high: float

    @property
    def value(self) -> float:
        """Return a - b."""
        return self.a - self.b

    @property
    def significant(self) -> bool:
        """Tell whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def metric_intervals(
    rows: Rows, logit: NDArray[np.floating[Any]], *, replicates: int = REPLICATES, seed: int = 0
) -> dict[str, Interval]:
    """Return every metric of scored rows with its interval."""
    values = _metrics_of(rows, logit)
    drawn_BM = replicate_metrics(rows, [logit], replicates=replicates, seed=seed)[:, 0]
    return {
        name: Interval(values[name], *_bounds(name, values[name], drawn_BM[:, index], lowest=0.0))
        for index, name in enumerate(METRICS)
    }


def metric_differences(
    rows: Rows,
    logit_a: NDArray[np.floating[Any]],
    logit_b: NDArray[np.floating[Any]],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    curves: bool = True,
) -> dict[str, Difference]:
    """Return every metric of two scores of the same rows with the paired interval of `a - b`.

    Without `curves`, which is far quicker, AUC and ECE have no interval.
    """
    a, b = _metrics_of(rows, logit_a), _metrics_of(rows, logit_b)
    drawn_BSM = replicate_metrics(rows, [logit_a, logit_b], replicates=replicates, seed=seed, curves=curves)
    drawn_BM = drawn_BSM[:, 0] - drawn_BSM[:, 1]
    return {
        name: Difference(a[name], b[name], *_bounds(name, a[name] - b[name], drawn_BM[:, index]))
        for index, name in enumerate(METRICS)
    }


def ratio_intervals(
    user: NDArray[np.generic],
    group: Ints,
    numerator: Floats,
    denominator: Floats,
    *,
    relative_to: tuple[Floats, Floats] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[Interval]:
    """Return sum of numerators / sum of denominators of each group of rows, with its interval.

    Args:
        user: `[R]` as in `Rows`.
        group: `[R]` from 0 without gaps worth mentioning; the result has one entry per group.
        numerator: `[R]`.
        denominator: `[R]`.
        relative_to: `[R]` each, another numerator and denominator: each group's ratio is divided by that of these,
            which varies with the draws too.
        replicates: draws.
        seed: of the draws.

    """
    groups = int(group.max(initial=-1)) + 1
    users, user_R = np.unique(user, return_inverse=True)
    cells, cell_R = np.unique(user_R * groups + group, return_inverse=True)
    parts = (numerator, denominator, *(relative_to or ()))
    parts_C = [np.bincount(cell_R, weights=part, minlength=len(cells)) for part in parts]
    user_C, group_C = cells // max(groups, 1), cells % max(groups, 1)

    def ratios(count_C: Floats) -> Floats:
        sums = [
            np.bincount(group_C, weights=count_C * part, minlength=groups).astype(np.float64)
            for part in parts_C
        ]
        found = ratio(sums[0], sums[1])
        return found if relative_to is None else ratio(found, ratio(sums[2], sums[3]))

    value_G = ratios(np.ones(len(cells)))
    draws = user_draws(len(users), replicates=replicates if len(users) > 1 else 0, seed=seed)
    drawn = [ratios(count_U[user_C]) for count_BU in draws for count_U in count_BU]
    drawn_BG = np.array(drawn).reshape(len(drawn), groups)
    counted_C = (parts_C[0] != 0) | (parts_C[1] != 0)
    alone_G = np.bincount(group_C[counted_C], minlength=groups) < 2  # one user's ratio is that of every draw
    return [
        Interval(value, *((np.nan, np.nan) if alone_G[g] else _quantiles(drawn_BG[:, g])))
        for g, value in enumerate(value_G.tolist())
    ]


def _metrics_of(rows: Rows, logit: NDArray[np.floating[Any]]) -> dict[str, float]:
    metrics = evaluate_metrics(rows.user, rows.clicked, logit, rows.weight)
    return {name: float(metrics[name]) for name in METRICS}


def _bounds(name: str, value: float, drawn_B: Floats, *, lowest: float | None = None) -> tuple[float, float]:
    """Return the interval of a metric from its draws.

    A sum of absolute gaps rises with any noise, so draws of ECE lie above it as far as it lies above the
    truth; their quantiles are mirrored at the value, which takes that back.
    """
    low, high = _quantiles(drawn_B)
    if name != "ece":
        return low, high
    low, high = 2 * value - high, 2 * value - low
    return (low, high) if lowest is None else (max(low, lowest), max(high, lowest))


def _quantiles(drawn_B: Floats) -> tuple[float, float]:
    known = drawn_B[~np.isnan(drawn_B)]
    if not known.size or known.size < _NEEDED * drawn_B.size:
        return float("nan"), float("nan")
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)
