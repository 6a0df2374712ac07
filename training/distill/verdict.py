"""Is the student as good as its teacher? Asked of every impression of the test split.

R impression rows.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.bootstrap import Rows, metric_differences
from training.dataset import Dataset
from training.metrics import evaluate_metrics
from training.scored import ScoredSplit

WORST_GAUC: Final = -0.002
"""The interval of the difference in GAUC, student - teacher, is to lie above this."""
_TOLD: Final = ("gauc", "auc", "log_loss", "pcoc")


def judge(
    dataset: Dataset,
    row: NDArray[np.int64],
    *,
    teacher: NDArray[np.float32],
    student: NDArray[np.float32],
    seed: int = 0,
) -> dict[str, Any]:
    """Compare calibrated log-odds of the same rows.

    Returns:
        `rows, users`, metrics of `teacher` and `student`, `gauc_difference` (student - teacher) with `gauc_low` and
        `gauc_high` of its paired 95 % interval over users (None where undefined), `log_odds_difference` with mean,
        p99 and max of the absolute difference, and `close`: whether the interval lies above `WORST_GAUC`.

    """
    rows = ScoredSplit(dataset, row, student).rows
    found = metric_differences(rows, student, teacher, seed=seed, curves=False)["gauc"]
    off_R = np.abs(student.astype(np.float64) - teacher)
    return {
        "rows": len(row),
        "users": len(np.unique(rows.user)),
        "teacher": _metrics(rows, teacher),
        "student": _metrics(rows, student),
        "gauc_difference": _known(found.value),
        "gauc_low": _known(found.low),
        "gauc_high": _known(found.high),
        "log_odds_difference": {
            "mean": float(off_R.mean()),
            "p99": float(np.quantile(off_R, 0.99)),
            "max": float(off_R.max()),
        },
        "close": bool(found.low > WORST_GAUC),
    }


def _metrics(rows: Rows, logit: NDArray[np.float32]) -> dict[str, float | None]:
    metrics = evaluate_metrics(rows.user, rows.clicked, logit, rows.weight)
    return {name: _known(metrics[name]) for name in _TOLD}


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
