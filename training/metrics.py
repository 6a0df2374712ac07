"""The offline metrics: how well impressions are ranked (AUC, GAUC) and how true the probabilities are.

Ranking is unweighted; what compares probabilities with clicks weighs a row by 1 / sampling rate.
All arrays are `[n]`, one entry per impression row. A metric that isn't defined for its rows is NaN.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CALIBRATION_BINS: Final = 15


def evaluate_metrics(
    user: NDArray[np.generic],
    clicked: NDArray[np.generic],
    logit: NDArray[np.floating[Any]],
    weight: NDArray[np.floating[Any]],
) -> dict[str, float | int]:
    """Return rows, users, auc, gauc, log_loss, ne, pcoc and ece of scored impressions.

    Args:
        user: user of each row; anything that compares equal for one user.
        clicked: 0 or 1.
        logit: log-odds.
        weight: 1 / sampling rate, > 0.

    """
    label = np.asarray(clicked, dtype=np.float64)
    odds = np.asarray(logit, dtype=np.float64)
    w = np.asarray(weight, dtype=np.float64)
    return {
        "rows": int(label.size),
        "users": int(np.unique(user).size),
        "auc": auc(label, odds),
        "gauc": gauc(user, label, odds),
        "log_loss": log_loss(label, odds, w),
        "ne": normalized_entropy(label, odds, w),
        "pcoc": pcoc(label, odds, w),
        "ece": expected_calibration_error(label, odds, w),
    }


def sigmoid(logit: Floats) -> Floats:
    """Return 1 / (1 + exp(-logit)) without overflow."""
    exponential = np.exp(-np.abs(logit))
    return np.where(logit >= 0, 1.0, exponential) / (1.0 + exponential)


def auc(clicked: Floats, score: Floats) -> float:
    """Return the probability that a clicked row outranks another, ties counting 1/2; NaN with one class."""
    areas, _ = grouped_auc(np.zeros(clicked.size, dtype=np.int64), clicked, score)
    return float(areas[0]) if areas.size else float("nan")


def gauc(user: NDArray[np.generic], clicked: Floats, score: Floats) -> float:
    """Return the mean AUC of the users with both classes, each weighing as many rows as it has."""
    areas, rows = grouped_auc(user, clicked, score)
    return float(np.average(areas, weights=rows)) if areas.size else float("nan")


def grouped_auc(user: NDArray[np.generic], clicked: Floats, score: Floats) -> tuple[Floats, Floats]:
    """Return AUC and number of rows of every user with both classes, users ascending."""
    if not clicked.size:
        return np.zeros(0), np.zeros(0)
    order = np.lexsort((score, user))
    who, label, value = np.asarray(user)[order], clicked[order], score[order]
    new_user = np.concatenate(([True], who[1:] != who[:-1]))
    new_value = new_user | np.concatenate(([True], value[1:] != value[:-1]))
    # Mean 1-based rank of each run of equal scores, counted from the user's first row.
    starts = np.flatnonzero(new_value)
    lengths = np.diff(np.append(starts, label.size))
    group = np.cumsum(new_user) - 1
    first = np.flatnonzero(new_user)
    rank = (starts + (lengths + 1) / 2)[np.cumsum(new_value) - 1] - first[group]
    rows = np.bincount(group).astype(np.float64)
    positives = np.bincount(group, weights=label)
    negatives = rows - positives
    both = (positives > 0) & (negatives > 0)
    ranks = np.bincount(group, weights=rank * label)
    wins = ranks - positives * (positives + 1) / 2
    return wins[both] / (positives * negatives)[both], rows[both]


def log_loss(clicked: Floats, logit: Floats, weight: Floats) -> float:
    """Return the weighted mean of -log p(what happened), in nats."""
    if not clicked.size:
        return float("nan")
    return float(np.average(np.logaddexp(0.0, logit) - clicked * logit, weights=weight))


def normalized_entropy(clicked: Floats, logit: Floats, weight: Floats) -> float:
    """Return the log loss over the entropy of the weighted click rate; NaN with one class."""
    if not clicked.size:
        return float("nan")
    rate = float(np.average(clicked, weights=weight))
    if not 0.0 < rate < 1.0:
        return float("nan")
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    return log_loss(clicked, logit, weight) / float(entropy)


def pcoc(clicked: Floats, logit: Floats, weight: Floats) -> float:
    """Return predicted clicks over observed clicks, sum w p / sum w y; NaN without a click."""
    observed = float(weight @ clicked)
    return float(weight @ sigmoid(logit)) / observed if observed > 0 else float("nan")


def expected_calibration_error(
    clicked: Floats, logit: Floats, weight: Floats, *, bins: int = CALIBRATION_BINS
) -> float:
    """Return sum over bins of mass share x |mean p - mean y|, bins of equal weight by rising p.

    Bins are those of `calibration_bins`.
    """
    if not clicked.size:
        return float("nan")
    group = calibration_bins(logit, weight, bins=bins)
    gap = np.bincount(group, weights=weight * (sigmoid(logit) - clicked), minlength=bins)
    return float(np.abs(gap).sum() / weight.sum())


def calibration_bins(score: Floats, weight: Floats, *, bins: int = CALIBRATION_BINS) -> NDArray[np.int64]:
    """Return the bin of each row, of equal weight by rising score.

    Rows of equal score share a bin: the one that the middle of their weight lies in. So the order of rows
    doesn't matter, nor whether a row of weight 2 stands for two.
    """
    order = np.argsort(score, kind="stable")
    ordered = score[order]
    new = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    upto = np.cumsum(weight[order])[np.append(np.flatnonzero(new)[1:] - 1, len(order) - 1)]
    middle = (upto + np.concatenate(([0.0], upto[:-1]))) / 2
    run_bin = np.searchsorted(np.arange(1, bins) * (upto[-1] / bins), middle, side="right")
    group = np.empty(len(order), dtype=np.int64)
    group[order] = run_bin[np.cumsum(new) - 1]
    return group
