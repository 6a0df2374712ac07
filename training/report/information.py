"""Mutual information of behaviours' categories and clicks: the measured correlation of TIN's paper.

Zhou et al., Temporal Interest Network for User Response Prediction, WWW 2024: the information that "a behaviour
of category c happened at rank p" holds on the click on an ad of category t. Here: among the pairs of an ad of
category t and a behaviour at rank p, that of "the behaviour is of category c" on the click; its mean over ads
for c = t, and for c other than t. Information is never negative, so that chance alone makes some: what is left
when every user is given the histories of another one is taken off. Users stay whole in that, so what chance makes of
users who click a lot goes too.

K categories, P ranges of rank, Q requests, R rows, L behaviours.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.schema import SchemaField
from training.report.case import Case

Floats = NDArray[np.float64]

CATEGORIES: Final = 30
"""Most frequent categories, of which mutual information is measured."""
_EXCHANGES: Final = 5


class Categories:
    """Collects which categories were shown, clicked and seen before."""

    def __init__(self, case: Case, category: SchemaField) -> None:
        self._known = _frequent(case, category)
        self._clicked = np.asarray(case.dataset.row("clicked"))
        self._seen_QPK: list[Floats] = []
        self._all_QP: list[Floats] = []
        self._target: list[NDArray[np.int64]] = []
        self._click: list[NDArray[np.int64]] = []
        self._request: list[NDArray[np.int64]] = []
        self._user_Q: list[int] = []

    def add(
        self,
        user: int,
        row_R: NDArray[np.int64],
        shown_R: NDArray[np.uint64],
        seen_L: NDArray[np.uint64],
        inside_LP: NDArray[np.float32],
    ) -> None:
        """Add a request: its user, its rows, the categories of their ads and of its behaviours, and when those were.

        A user's requests come one after another.
        """
        place_L = self._place(seen_L)
        one_hot_LK = (place_L[:, None] == np.arange(len(self._known))).astype(np.float32)
        target_R = self._place(shown_R)
        kept = target_R >= 0
        self._user_Q.append(user)
        self._request.append(np.full(int(kept.sum()), len(self._seen_QPK)))
        self._target.append(target_R[kept])
        self._click.append(self._clicked[row_R[kept]].astype(np.int64))
        self._seen_QPK.append((inside_LP.T @ one_hot_LK).astype(np.float64))
        self._all_QP.append(inside_LP.sum(0).astype(np.float64))

    def information(self, seed: int) -> tuple[Floats, Floats]:
        """Return the information `[P]` of the ad's own and of other categories, in thousandths of a bit.

        NaN of fewer than two users: there is nobody to exchange histories with.
        """
        seen_QPK, all_QP = np.stack(self._seen_QPK), np.stack(self._all_QP)
        ranks = seen_QPK.shape[1]
        if not len(self._known) or len(set(self._user_Q)) < 2:
            return np.full(ranks, np.nan), np.full(ranks, np.nan)
        target, click, request = (
            np.concatenate(parts) for parts in (self._target, self._click, self._request)
        )
        shown_KYQ = np.zeros((len(self._known), 2, len(all_QP)))
        np.add.at(shown_KYQ, (target, click, request), 1.0)

        def measure(of_Q: NDArray[np.int64]) -> Floats:
            joint_KYPK = np.tensordot(shown_KYQ, seen_QPK[of_Q], axes=(2, 0))
            return _own_and_other(joint_KYPK, shown_KYQ @ all_QP[of_Q], shown_KYQ.sum((1, 2)))

        generator, user_Q = np.random.default_rng(seed), np.array(self._user_Q)
        chance = [measure(_others(user_Q, generator)) for _ in range(_EXCHANGES)]
        own_P, other_P = 1000 * (measure(np.arange(len(user_Q))) - np.mean(chance, axis=0))
        return own_P, other_P

    def _place(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the place of each key among the known categories, -1 for others."""
        if not len(self._known):
            return np.full(len(keys), -1)
        place = np.minimum(np.searchsorted(self._known, keys), len(self._known) - 1)
        found: NDArray[np.int64] = np.where(self._known[place] == keys, place, -1)
        return found


def _own_and_other(joint_KYPK: Floats, total_KYP: Floats, rows_K: Floats) -> Floats:
    """Return mean information in bits, `[2, P]`: of the target's own category, and of the others."""
    pairs_KP = total_KYP.sum(1)
    bits_KPK = np.zeros_like(joint_KYPK[:, 0])
    for clicked in (0, 1):
        for inside in (True, False):
            every = total_KYP[:, clicked, :, None]
            cell = joint_KYPK[:, clicked] if inside else every - joint_KYPK[:, clicked]
            seen = joint_KYPK.sum(1) if inside else pairs_KP[:, :, None] - joint_KYPK.sum(1)
            bits_KPK += _term(cell, cell * pairs_KP[:, :, None], seen * every)
    bits_KPK /= np.maximum(pairs_KP, 1.0)[:, :, None]
    own_KP = np.diagonal(bits_KPK, axis1=0, axis2=2).T
    other_KP = (bits_KPK.sum(2) - own_KP) / max(len(rows_K) - 1, 1)
    share_K = rows_K / max(rows_K.sum(), 1.0)
    return np.stack([share_K @ own_KP, share_K @ other_KP])


def _term(cell: Floats, top: Floats, bottom: Floats) -> Floats:
    """Return cell x log2(top / bottom), 0 of an empty cell."""
    filled = cell > 0
    log = np.zeros_like(cell)
    np.log2(np.divide(top, bottom, out=np.ones_like(cell), where=filled), out=log, where=filled)
    return cell * log


def _others(user_Q: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Return for each request one of another user: of one and the same for all requests of a user, in turn."""
    first = np.flatnonzero(np.append(True, user_Q[1:] != user_Q[:-1]))
    counts = np.diff(np.append(first, len(user_Q)))
    ring = generator.permutation(len(first))
    other = np.empty_like(ring)
    other[ring] = np.roll(ring, 1)  # the next one round, so nobody is given his own
    mine = np.repeat(np.arange(len(first)), counts)
    turn = np.arange(len(user_Q)) - first[mine]
    theirs: NDArray[np.int64] = first[other[mine]] + turn % counts[other[mine]]
    return theirs


def _frequent(case: Case, category: SchemaField) -> NDArray[np.uint64]:
    """Return the keys of the most frequent categories among the judged ads, ascending."""
    column = np.asarray(case.dataset.column("ad", category.name))
    keys, counts = np.unique(column[np.asarray(case.dataset.row("ad"))[case.main.row]], return_counts=True)
    keys, counts = keys[keys != 0], counts[keys != 0]
    return np.sort(keys[np.argsort(-counts, kind="stable")[:CATEGORIES]])
