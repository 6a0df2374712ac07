"""Semantic-temporal correlation: what a behaviour says about a click, measured in the log and learned.

By what the behaviour shares with the ad, and by when it happened.

A pair is a shown ad and one earlier behaviour of its user. Measured: the lift of pairs of one kind, clicks
over the clicks that the popularity of their ads makes one expect, relative to all pairs of that time (so that
users who are active or click a lot do not count for more at some ranks). Learned: the strength that a model
gives to pairs of one kind, relative to all pairs.

R rows, F fields, P ranges of rank then of age, N candidates of a request, L its behaviours, newest last.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.schema import SchemaField
from training.batches import BatchSource
from training.report.case import Case
from training.report.information import Categories
from training.report.strength import Strength
from training.scoring import inputs_of

Floats = NDArray[np.float64]

RANKS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
RANK_NAMES: Final = tuple(str(rank) for rank in RANKS)
HORIZON: Final = 1024
"""Behaviours looked back, whatever the model sees."""
AGES_S: Final = (0, 3_600, 86_400, 7 * 86_400, 28 * 86_400, 91 * 86_400, 364 * 86_400)
AGE_NAMES: Final = ("hour", "day", "week", "4 wks", "quarter", "year", "older")
MOST_REQUESTS: Final = 2_500
MOST_PAIRS: Final = 60_000_000
MOST_FIELDS: Final = 6
LEAST_CLICKS: Final = 20.0
"""Clicks in the log that a cell must make one expect to be shown."""

_TIMES: Final = len(RANKS) + len(AGES_S)


@dataclass(frozen=True)
class Pairs:
    """Pairs counted by what they share, for every row drawn."""

    row: NDArray[np.int64]
    """`[R]` places of the drawn rows among the judged ones."""
    requests: int
    fields: list[SchemaField]
    same: NDArray[np.float32]
    """`[R, F, P]` behaviours that agree with the ad in a field."""
    every: NDArray[np.float32]
    """`[R, P]` all behaviours."""
    learned: Floats | None
    """`[F, P]` mean strength of pairs that agree, relative to all pairs; None if the model has none."""
    learned_other: Floats | None
    """Likewise of pairs that do not agree."""
    same_information: Floats
    """`[P]` mutual information of the category's own behaviours and the click, by rank; 1/1000 bit."""
    other_information: Floats
    """Likewise of other categories' behaviours."""


def matched_fields(case: Case) -> list[SchemaField]:
    """Return the categorical ad fields that face a behaviour field, those of most values first."""
    found = [
        each for each in case.dataset.schema.ad if each.type == "categorical" and each.matches is not None
    ]
    return sorted(found, key=lambda each: -effective_values(case, each))[:MOST_FIELDS]


def effective_values(case: Case, each: SchemaField) -> float:
    """Return exp(entropy) of a field over the judged rows: how many values it has, rare ones counting little."""
    column = np.asarray(case.dataset.column("ad", each.name))
    _, counts = np.unique(column[np.asarray(case.dataset.row("ad"))[case.main.row]], return_counts=True)
    shares = counts / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def count_pairs(
    case: Case, fields: list[SchemaField], category: SchemaField, strength: Strength | None
) -> Pairs:
    """Count the pairs of requests drawn at random from the judged split."""
    chosen = _drawn_requests(case)
    counter = _Counter(case, fields, category, strength)
    for done, request in enumerate(chosen):
        if done % 100 == 0:
            case.progress(done, len(chosen), "correlation maps")
        counter.add(int(request))
    return counter.result(len(chosen))


class _Counter:
    """Adds up the pairs of one request after another."""

    def __init__(
        self, case: Case, fields: list[SchemaField], category: SchemaField, strength: Strength | None
    ) -> None:
        self.case, self.fields, self.strength = case, fields, strength
        dataset = case.dataset
        self.requests = dataset.requests
        self.row_ad = np.asarray(dataset.row("ad"))
        self.ad = [np.asarray(dataset.column("ad", each.name)) for each in fields]
        self.source = None
        if strength is not None:
            self.source = BatchSource(dataset, case.run.encoder, case.run.model.inputs)
        self.categories = Categories(case, category)
        self.category = fields.index(category)
        self.rows: list[NDArray[np.int64]] = []
        self.same: list[NDArray[np.float32]] = []
        self.all: list[NDArray[np.float32]] = []
        self.strong_FP, self.pairs_FP = np.zeros((len(fields), _TIMES)), np.zeros((len(fields), _TIMES))
        self.strong_P, self.pairs_P = np.zeros(_TIMES), np.zeros(_TIMES)

    def add(self, request: int) -> None:
        """Count the pairs of one request."""
        entry = self.requests[request]
        row = np.arange(int(entry["first_row"]), int(entry["first_row"] + entry["rows"]))
        newest = self.case.dataset.records[
            max(int(entry["start"]), int(entry["end"]) - HORIZON) : int(entry["end"])
        ]
        inside_LP = _times(int(entry["timestamp"]), newest["timestamp"].astype(np.int64))
        ads = self.row_ad[row]
        equal_FNL = np.stack(
            [
                (keys[ads][:, None] == newest[str(each.matches)][None, :]) & (keys[ads] != 0)[:, None]
                for keys, each in zip(self.ad, self.fields, strict=True)
            ]
        )
        self.rows.append(row)
        self.same.append((equal_FNL.astype(np.float32) @ inside_LP).transpose(1, 0, 2))
        self.all.append(np.broadcast_to(inside_LP.sum(0), (len(row), _TIMES)))
        seen = newest[str(self.fields[self.category].matches)]
        self.categories.add(
            int(entry["user"]), row, self.ad[self.category][ads], seen, inside_LP[:, : len(RANKS)]
        )
        if self.source is not None:
            self._add_strength(request, equal_FNL, inside_LP)

    def _add_strength(
        self, request: int, equal_FNL: NDArray[np.bool_], inside_LP: NDArray[np.float32]
    ) -> None:
        assert self.source is not None
        assert self.strength is not None
        batch = self.source.batch(np.array([request]), serving=True)
        strength_NL = self.strength.of(inputs_of(batch))
        length = min(strength_NL.shape[1], len(inside_LP))
        strength_NL, inside_LP = strength_NL[:, -length:], inside_LP[-length:].astype(np.float64)
        equal_FNL = equal_FNL[:, :, -length:]
        self.strong_FP += ((equal_FNL * strength_NL).sum(1)) @ inside_LP
        self.pairs_FP += equal_FNL.sum(1) @ inside_LP
        self.strong_P += strength_NL.sum(0) @ inside_LP
        self.pairs_P += len(strength_NL) * inside_LP.sum(0)

    def result(self, requests: int) -> Pairs:
        """Return the counts."""
        row = np.concatenate(self.rows)
        learned = other = None
        if self.strength is not None:
            ranks = slice(0, len(RANKS))  # every pair once, though it has a rank and an age
            mean = self.strong_P[ranks].sum() / max(self.pairs_P[ranks].sum(), 1.0)
            with np.errstate(divide="ignore", invalid="ignore"):
                learned = self.strong_FP / self.pairs_FP
                other = (self.strong_P - self.strong_FP) / (self.pairs_P - self.pairs_FP)
            learned, other = self.strength.relative(learned, mean), self.strength.relative(other, mean)
        return Pairs(
            np.searchsorted(self.case.main.row, row),
            requests,
            self.fields,
            np.concatenate(self.same),
            np.concatenate(self.all),
            learned,
            other,
            *self.categories.information(self.case.seed),
        )


def lifts(case: Case, pairs: Pairs) -> tuple[Floats, Floats]:
    """Return the lift of pairs that agree in a field and of those that do not, both `[F, P]`; NaN if of few."""
    clicks_R, expected_R = clicks_and_expected(case, pairs)
    same_FPR = pairs.same.transpose(1, 2, 0).astype(np.float64)
    all_PR = pairs.every.T.astype(np.float64)
    rest_FPR = all_PR[None] - same_FPR
    with np.errstate(divide="ignore", invalid="ignore"):
        usual_P = (all_PR @ clicks_R) / (all_PR @ expected_R)
        same_FP = (same_FPR @ clicks_R) / (same_FPR @ expected_R) / usual_P
        other_FP = (rest_FPR @ clicks_R) / (rest_FPR @ expected_R) / usual_P
    # Of clicks kept at a rate of 1 % each stands for 100, and is worth one as evidence.
    logged_R = expected_R * (case.main.rows.clicked[pairs.row].sum() / max(clicks_R.sum(), 1e-300))
    thin_FP = ((same_FPR > 0) @ logged_R) < LEAST_CLICKS
    thin_P = ((all_PR > 0) @ logged_R) < LEAST_CLICKS
    return np.where(thin_FP, np.nan, same_FP), np.where(thin_P, np.nan, other_FP)


def clicks_and_expected(case: Case, pairs: Pairs) -> tuple[Floats, Floats]:
    """Return of every drawn row its weighted click, and the one that its ad's popularity in training expects."""
    rows, ads = case.main.rows, np.asarray(case.dataset.row("ad"))
    clicks_R = (rows.weight * rows.clicked)[pairs.row]
    expected_R = rows.weight[pairs.row] * case.rate_in_training[ads[case.main.row[pairs.row]]]
    return clicks_R, expected_R * (clicks_R.sum() / expected_R.sum())


def _drawn_requests(case: Case) -> NDArray[np.int64]:
    """Return requests of the judged split that have a history, drawn at random until they make enough pairs."""
    assert case.judged is not None
    chosen = case.chosen[case.judged]
    requests = case.dataset.requests[chosen]
    length = np.minimum(requests["end"] - requests["start"], HORIZON)
    order = np.random.default_rng(case.seed).permutation(np.flatnonzero(length > 0))[:MOST_REQUESTS]
    pairs = np.cumsum(length[order] * requests["rows"][order])
    return np.sort(chosen[order[: max(1, int(np.searchsorted(pairs, MOST_PAIRS)))]])


def _times(now: int, seen_L: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return `[L, P]`: 1 where a behaviour lies in a range of rank, and in one of age."""
    rank_L = np.arange(len(seen_L), 0, -1)
    inside_LP = np.zeros((len(seen_L), _TIMES), dtype=np.float32)
    line_L = np.arange(len(seen_L))
    inside_LP[line_L, np.searchsorted(RANKS, rank_L, side="right") - 1] = 1
    inside_LP[line_L, len(RANKS) + np.searchsorted(AGES_S, now - seen_L, side="right") - 1] = 1
    return inside_LP
