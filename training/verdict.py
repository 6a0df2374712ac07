"""Is another way to compute a run's scores as good as the first? Asked of every impression of a split.

The other way is a student in the sampler's place, or a graph of reduced precision. R impression rows.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.bootstrap import Rows, metric_differences
from training.dataset import Dataset, SplitName
from training.metrics import evaluate_metrics
from training.scored import ScoredSplit

WORST_GAUC: Final = -0.002
"""The interval of the difference in GAUC, other - first, is to lie above this."""
_TOLD: Final = ("gauc", "auc", "log_loss", "pcoc")


def judged_split(dataset: Dataset) -> SplitName:
    """Return the split to ask: test, or validation where there is no test split."""
    return "test" if (dataset.requests["split"] == 2).any() else "validation"


def judge(
    dataset: Dataset,
    row: NDArray[np.int64],
    *,
    first: NDArray[np.float32],
    other: NDArray[np.float32],
    names: tuple[str, str],
    seed: int = 0,
) -> dict[str, Any]:
    """Compare calibrated log-odds of the same rows.

    Args:
        dataset: of the rows.
        row: `[R]` impression rows, ascending.
        first: `[R]` log-odds as they were.
        other: `[R]` log-odds of the other way.
        names: what to call the two.
        seed: of the draws of users.

    Returns:
        `rows, users`, metrics of both under their names, `gauc_difference` (other - first) with `gauc_low` and
        `gauc_high` of its paired 95 % interval over users, `pcoc_difference` (None where undefined),
        `log_odds_difference` with mean, p99 and max of the absolute difference, and `close`: whether the interval lies
        above `WORST_GAUC`.

    """
    rows = ScoredSplit(dataset, row, other).rows
    found = metric_differences(rows, other, first, seed=seed, curves=False)
    gauc = found["gauc"]
    off_R = np.abs(other.astype(np.float64) - first)
    return {
        "rows": len(row),
        "users": len(np.unique(rows.user)),
        names[0]: _metrics(rows, first),
        names[1]: _metrics(rows, other),
        "gauc_difference": _known(gauc.value),
        "gauc_low": _known(gauc.low),
        "gauc_high": _known(gauc.high),
        "pcoc_difference": _known(found["pcoc"].value),
        "log_odds_difference": {
            "mean": float(off_R.mean()),
            "p99": float(np.quantile(off_R, 0.99)),
            "max": float(off_R.max()),
        },
        "close": bool(gauc.low > WORST_GAUC),
    }


def _metrics(rows: Rows, logit: NDArray[np.float32]) -> dict[str, float | None]:
    metrics = evaluate_metrics(rows.user, rows.clicked, logit, rows.weight)
    return {name: _known(metrics[name]) for name in _TOLD}


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
