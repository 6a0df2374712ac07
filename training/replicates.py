"""Metrics of many draws of users with replacement: the engine of the bootstrap.

Rows of one user are alike, so whole users are drawn: as many as there are, each any number of times. A draw
is a count per user, and every metric is computed from the counts without copying a row:

- GAUC, log loss, NE and PCOC from sums per user;
- AUC and ECE from the counts of all rows in order of score, which is found once: mean ranks of the clicked
  rows, and the gaps between the bins' edges.

Several scores of the same rows (two models, say) see the same draws, so their differences are paired.

B draws, U users, R rows, S scores, M metrics.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.metrics import CALIBRATION_BINS, grouped_auc, sigmoid

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

METRICS: Final = ("gauc", "auc", "log_loss", "ne", "pcoc", "ece")

_DRAW_CELLS: Final = 4_000_000  # counts held at a time: 32 MB


@dataclass(frozen=True)
class Rows:
    """The impressions that are resampled, without their scores."""

    user: NDArray[np.generic]
    """`[R]` whatever compares equal for one user."""
    clicked: Floats
    """`[R]` 0 or 1."""
    weight: Floats
    """`[R]` 1 / sampling rate, > 0."""

    def where(self, chosen: NDArray[np.bool_]) -> "Rows":
        """Return the chosen rows."""
        return Rows(self.user[chosen], self.clicked[chosen], self.weight[chosen])


def replicate_metrics(
    rows: Rows,
    logits: Sequence[NDArray[np.floating[Any]]],
    *,
    replicates: int,
    seed: int,
    curves: bool = True,
) -> Floats:
    """Return `[B, S, M]`: each metric of each score in each draw; NaN where a draw leaves it undefined.

    AUC and ECE take nearly all of the time; without `curves` they are NaN. With fewer than two users a draw
    can't differ from the rows, and everything is NaN.
    """
    users, user_R = np.unique(rows.user, return_inverse=True)
    result = np.full((replicates, len(logits), len(METRICS)), np.nan)
    if len(users) < 2:
        return result
    scored = [
        _Scored(rows, user_R, len(users), np.asarray(logit, dtype=np.float64), curves=curves)
        for logit in logits
    ]
    done = 0
    for count_BU in user_draws(len(users), replicates=replicates, seed=seed):
        for index, each in enumerate(scored):
            result[done : done + len(count_BU), index] = each.metrics(count_BU)
        done += len(count_BU)
    return result


def user_draws(users: int, *, replicates: int, seed: int) -> Iterator[Floats]:
    """Yield blocks `[b, U]` of how often each user was drawn, `replicates` rows in all."""
    generator = np.random.default_rng(seed)
    block = max(1, _DRAW_CELLS // max(users, 1))
    for begin in range(0, replicates, block):
        count = min(block, replicates - begin)
        drawn_BU = np.empty((count, users))
        for index in range(count):
            drawn_BU[index] = np.bincount(generator.integers(0, users, users), minlength=users)
        yield drawn_BU


class _Scored:
    """What the metrics of one score need of every draw, prepared once."""

    def __init__(self, rows: Rows, user_R: Ints, users: int, logit_R: Floats, *, curves: bool) -> None:
        clicked_R, weight_R = rows.clicked, rows.weight
        p_R = sigmoid(logit_R)
        loss_R = np.logaddexp(0.0, logit_R) - clicked_R * logit_R
        parts = (weight_R * loss_R, weight_R, weight_R * p_R, weight_R * clicked_R)
        self._sums_U4 = np.stack([np.bincount(user_R, weights=part, minlength=users) for part in parts], 1)
        self._gauc_U2 = _gauc_sums(user_R, users, clicked_R, logit_R)
        gap_R = weight_R * (p_R - clicked_R)
        self._curve = _Curve(user_R, clicked_R, logit_R, weight_R, gap_R) if curves else None

    def metrics(self, count_BU: Floats) -> Floats:
        """Return `[B, M]`."""
        loss_B, weight_B, predicted_B, clicks_B = (count_BU @ self._sums_U4).T
        area_B, area_rows_B = (count_BU @ self._gauc_U2).T
        log_loss_B = ratio(loss_B, weight_B)
        auc_B = ece_B = np.full(len(count_BU), np.nan)
        if self._curve is not None:
            auc_B, ece_B = np.array([self._curve.measure(count_U) for count_U in count_BU]).reshape(-1, 2).T
        columns = (
            ratio(area_B, area_rows_B),
            auc_B,
            log_loss_B,
            ratio(log_loss_B, _entropy(ratio(clicks_B, weight_B))),
            ratio(predicted_B, clicks_B),
            ece_B,
        )
        return np.stack(columns, axis=1)


class _Curve:
    """AUC and ECE of draws: what depends on the order of the scores, which no draw changes."""

    def __init__(
        self, user_R: Ints, clicked_R: Floats, score_R: Floats, weight_R: Floats, gap_R: Floats
    ) -> None:
        order_R = np.argsort(score_R, kind="stable")
        score_R = score_R[order_R]
        self._user_R = user_R[order_R]
        self._gap_R = gap_R[order_R]
        self._weight_R = None if (weight_R == 1).all() else weight_R[order_R]
        new_R = np.concatenate(([True], score_R[1:] != score_R[:-1]))
        self._run_R = np.cumsum(new_R) - 1
        self._start = np.append(np.flatnonzero(new_R), len(score_R))  # of each run of equal scores
        self._positive = np.flatnonzero(clicked_R[order_R] > 0)
        run = self._run_R[self._positive]
        self._below, self._up_to = self._start[run], self._start[run + 1]

    def measure(self, count_U: Floats) -> tuple[float, float]:
        """Return AUC and ECE of one draw."""
        count_R = count_U[self._user_R]
        rank = _cumulated(count_R)
        weight = rank if self._weight_R is None else _cumulated(count_R * self._weight_R)
        return self._auc(count_R, rank), self._ece(count_R, weight)

    def _auc(self, count_R: Floats, rank: Floats) -> float:
        positive = count_R[self._positive]
        clicks = float(positive.sum())
        pairs = clicks * (float(rank[-1]) - clicks)
        if not pairs:
            return float("nan")
        # Against all rows, of which the pairs of two clicked ones, each won by one of them, are taken back.
        won = float(positive @ (rank[self._below] + rank[self._up_to])) / 2 - clicks * clicks / 2
        return won / pairs

    def _ece(self, count_R: Floats, weight: Floats) -> float:
        if not weight[-1]:
            return float("nan")
        edges = np.arange(1, CALIBRATION_BINS) * (weight[-1] / CALIBRATION_BINS)
        row = np.minimum(np.searchsorted(weight, edges, side="right") - 1, len(count_R) - 1)
        run = self._run_R[row]
        # The run that an edge falls into belongs above it if the middle of its weight does.
        middle = (weight[self._start[run]] + weight[self._start[run + 1]]) / 2
        cuts = np.concatenate(([0], self._start[run + (middle < edges)], [len(count_R)]))
        gap = count_R * self._gap_R
        sums = [gap[low:high].sum() for low, high in pairwise(cuts.tolist())]
        return float(np.abs(sums).sum() / weight[-1])


def _gauc_sums(user_R: Ints, users: int, clicked_R: Floats, score_R: Floats) -> Floats:
    """Return rows x AUC and rows of every user, both 0 where a user has one class."""
    areas, rows = grouped_auc(user_R, clicked_R, score_R)
    clicks_U = np.bincount(user_R, weights=clicked_R, minlength=users)
    both_U = (clicks_U > 0) & (clicks_U < np.bincount(user_R, minlength=users))
    sums_U2 = np.zeros((users, 2))
    if both_U.sum() > 1:  # of a single user there is nothing to draw
        sums_U2[both_U, 0], sums_U2[both_U, 1] = areas * rows, rows
    return sums_U2


def _cumulated(values: Floats) -> Floats:
    """Return the sums of the first 0, 1, ... values."""
    sums = np.zeros(len(values) + 1)
    np.cumsum(values, out=sums[1:])
    return sums


def ratio(top: Floats, bottom: Floats) -> Floats:
    """Return top / bottom, NaN where the bottom is 0."""
    result: Floats = np.full(np.shape(top), np.nan)
    np.divide(top, bottom, out=result, where=bottom != 0)
    return result


def _entropy(rate: Floats) -> Floats:
    """Return the entropy of click rates, in nats; 0 of one class (its ratio is then undefined)."""
    inside = np.where((rate > 0) & (rate < 1), rate, 0.5)
    entropy = -(inside * np.log(inside) + (1 - inside) * np.log1p(-inside))
    return np.where((rate > 0) & (rate < 1), entropy, 0.0)
