"""What every section of a report is made from: the run, its dataset, its scored splits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.errors import InputError
from training.compare import check_comparable
from training.dataset import SPLITS, Dataset, SplitName
from training.metrics import sigmoid
from training.run import Run
from training.scored import ScoredSplit, score_split
from training.scoring import Progress
from training.weights import row_weights

MOST_ROWS: Final = 1_000_000
"""Impression rows of a split that are judged; of more, whole users are drawn until there are as many."""

_PRIOR: Final = 20.0  # impressions of average click rate that every ad is given beforehand


@dataclass(frozen=True)
class Case:
    """A run to be reported on."""

    run: Run
    dataset: Dataset
    chosen: dict[SplitName, NDArray[np.int64]]
    """Requests judged of each split that has any: all of them, or those of some users."""
    scored: dict[SplitName, ScoredSplit]
    """Validation and test, where they have requests."""
    baselines: Sequence[Path]
    category: str | None
    """Ad field of the correlation maps, or None to choose one."""
    replicates: int
    seed: int
    progress: Progress

    @cached_property
    def judged(self) -> SplitName | None:
        """The split that figures are of: test, or validation where test is empty; None where both are."""
        return next((name for name in ("test", "validation") if name in self.scored), None)

    @property
    def main(self) -> ScoredSplit:
        """The scored rows of `judged`."""
        assert self.judged is not None
        return self.scored[self.judged]

    @cached_property
    def shown_in_training(self) -> NDArray[np.int64]:
        """How often each ad `[ads]` was shown in the training split."""
        ads = np.asarray(self.dataset.row("ad"))[self._train_rows]
        counts: NDArray[np.int64] = np.bincount(ads, minlength=len(self.dataset.ad_keys))
        return counts

    @cached_property
    def rate_in_training(self) -> NDArray[np.float64]:
        """Click rate of each ad `[ads]` in the training split, drawn to the mean of all where it was shown little."""
        rows, size = self._train_rows, len(self.dataset.ad_keys)
        ads, weight = np.asarray(self.dataset.row("ad"))[rows], row_weights(self.dataset, rows)
        shown = np.bincount(ads, weights=weight, minlength=size)
        weight *= np.asarray(self.dataset.row("clicked"))[rows]
        clicks = np.bincount(ads, weights=weight, minlength=size)
        usual = (clicks.sum() + 1) / (shown.sum() + 2)
        rate: NDArray[np.float64] = (clicks + _PRIOR * usual) / (shown + _PRIOR)
        return rate

    @property
    def _train_rows(self) -> NDArray[np.int64]:
        requests = self.dataset.requests
        return np.flatnonzero(np.repeat(requests["split"] == SPLITS.index("train"), requests["rows"]))

    def sampled(self, split: SplitName) -> str:
        """Return in words how much of a split was judged; empty if all of it was."""
        total = int((self.dataset.requests["split"] == SPLITS.index(split)).sum())
        kept = len(self.chosen[split])
        if kept == total:
            return ""
        return (
            f"Of the {split} split's {total:,} requests, {kept:,} are judged: all those of users drawn at random "
            f"(seed {self.seed}), so that there are about {MOST_ROWS:,} rows."
        )


def probabilities(scored: ScoredSplit) -> NDArray[np.float64]:
    """Return the probability of each row."""
    return sigmoid(scored.logit.astype(np.float64))


def open_case(
    path: Path,
    *,
    baselines: Sequence[Path],
    category: str | None,
    replicates: int,
    seed: int,
    progress: Progress | None,
) -> Case:
    """Load a run and score its validation and test splits.

    Raises:
        RunError, DatasetError: the run, its dataset or a baseline can't be used.
        InputError: `category` is no categorical ad field that matches a behaviour field.

    """
    report: Callable[[int, int | None, str], None] = progress or (lambda _done, _total, _label: None)
    run = Run.load(path)
    dataset = run.dataset()
    # What was asked for is checked before minutes are spent on scoring.
    for each in baselines:
        check_comparable(run, Run.load(each))
    if category is not None:
        _check_category(dataset, category)
    chosen: dict[SplitName, NDArray[np.int64]] = {
        name: picked for name in SPLITS if len(picked := _requests(dataset, name, seed=seed))
    }
    scored: dict[SplitName, ScoredSplit] = {
        name: score_split(run, dataset, picked, progress=report)
        for name, picked in chosen.items()
        if name != "train"
    }
    return Case(
        run, dataset, chosen, scored, baselines, category, replicates=replicates, seed=seed, progress=report
    )


def _check_category(dataset: Dataset, category: str) -> None:
    matched = [f.name for f in dataset.schema.ad if f.type == "categorical" and f.matches is not None]
    if category not in matched:
        raise InputError(
            f"--category {category}: no ad field that matches a behavior field; there are {', '.join(matched)}"
        )


def _requests(dataset: Dataset, split: SplitName, *, seed: int) -> NDArray[np.int64]:
    """Return the requests of a split, of as many users drawn at random as `MOST_ROWS` allow."""
    found = np.flatnonzero(dataset.requests["split"] == SPLITS.index(split))
    rows = dataset.requests["rows"][found]
    if split == "train" or int(rows.sum()) <= MOST_ROWS:
        return found
    users, user = np.unique(dataset.requests["user"][found], return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(users))
    per_user = np.bincount(user, weights=rows)[order]
    kept = np.zeros(len(users), dtype=bool)
    kept[order[: max(1, int(np.searchsorted(np.cumsum(per_user), MOST_ROWS)))]] = True
    return found[kept[user]]
