"""`longsight compare`: is one run better than another, on the same impressions, and by how much?

Differences are paired: both runs score the same rows, and both see the same draws of users.
"""

from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import Any, Final

import numpy as np

from contract.errors import InputError, RunError
from training.bootstrap import REPLICATES, Difference, metric_differences
from training.run import Run
from training.scored import ScoredSplit, score_split, split_name
from training.scoring import Progress

TITLES: Final = {
    "gauc": "GAUC",
    "auc": "AUC",
    "log_loss": "log loss",
    "ne": "NE",
    "pcoc": "PCOC",
    "ece": "ECE",
}
LOWER_IS_BETTER: Final = frozenset({"log_loss", "ne", "ece"})


def compare(
    run_a: Path,
    run_b: Path,
    *,
    split: str = "test",
    replicates: int = REPLICATES,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the paired difference a - b of every metric with its 95 % interval, of all rows and by length.

    Args:
        run_a: a run folder.
        run_b: another, trained on the same dataset.
        split: validation or test.
        replicates: draws of users.
        seed: of the draws.
        progress: called with (done, total, label).

    Returns:
        `split, a, b, rows, requests, users, replicates, seed, metrics, verdict, by_length`. `metrics[name]`
        holds `a, b, difference, low, high, significant, verdict`; what isn't defined is None.

    Raises:
        RunError, DatasetError: a run can't be used, the datasets differ, or the split is empty.

    """
    name = split_name(split)
    first, second = Run.load(run_a), Run.load(run_b)
    check_comparable(first, second)
    dataset = first.dataset()
    chosen = dataset.requests_of(name)
    scored_a = score_split(first, dataset, chosen, progress=progress)
    scored_b = score_split(second, dataset, chosen, progress=progress)
    names = run_labels(run_a, run_b)
    rows = scored_a.rows
    overall = _differences(scored_a, scored_b, names, replicates=replicates, seed=seed)
    return {
        "split": split,
        "a": {"run": str(run_a), "name": names[0], "model": first.model_name},
        "b": {"run": str(run_b), "name": names[1], "model": second.model_name},
        "rows": len(rows.clicked),
        "requests": len(chosen),
        "users": len(np.unique(rows.user)),
        "replicates": replicates,
        "seed": seed,
        "metrics": overall,
        "verdict": [entry["verdict"] for entry in overall.values()],
        "by_length": _by_length(scored_a, scored_b, names, replicates=replicates, seed=seed),
    }


def check_comparable(first: Run, second: Run) -> None:
    """Refuse two runs that weren't trained on the same data: their impressions can't be paired.

    Raises:
        RunError: other dataset, splits, history lag or sampling.

    """
    prints = [str(run.provenance["dataset_fingerprint"]) for run in (first, second)]
    if prints[0] != prints[1]:
        raise RunError(
            f"{first.path} and {second.path} were trained on different datasets (fingerprints {prints[0][:12]} and "
            f"{prints[1][:12]}), so their impressions or splits differ; train both on one dataset"
        )
    for what in ("sampling", "history_lag_s"):
        values = [run.record.get(what) for run in (first, second)]
        if values[0] != values[1]:
            raise RunError(
                f"{first.path} and {second.path} differ in {what} ({values[0]} and {values[1]}); "
                "train both on one dataset"
            )


def run_labels(run_a: Path, run_b: Path) -> tuple[str, str]:
    """Return how two runs are called in sentences: their folders' names, or their paths if those are equal."""
    names = run_a.resolve().name, run_b.resolve().name
    if names[0] != names[1]:
        return names
    return (str(run_a), str(run_b)) if run_a != run_b else (f"{names[0]} (A)", f"{names[1]} (B)")


def verdict(metric: str, difference: Difference, names: tuple[str, str]) -> str:
    """Return what a difference says, in one sentence."""
    title = TITLES[metric]
    if isnan(difference.value):
        return f"{title} is not defined for these rows (it needs clicked and other rows)"
    span = f"{_signed(difference.value)} [{_signed(difference.low)}, {_signed(difference.high)}]"
    if isnan(difference.low):
        return f"{title} differs by {_signed(difference.value)}; too few users for an interval"
    if not difference.significant:
        return f"no significant difference between {names[0]} and {names[1]} in {title}: {span}"
    if metric == "pcoc":
        near = names[0] if abs(difference.a - 1) < abs(difference.b - 1) else names[1]
        word = "higher" if difference.value > 0 else "lower"
        return f"{names[0]} has the {word} {title}: {span}, significant; {near} is nearer to 1"
    better = (difference.value > 0) != (metric in LOWER_IS_BETTER)
    return f"{names[0]} is {'better' if better else 'worse'} than {names[1]} in {title}: {span}, significant"


def _by_length(
    a: ScoredSplit, b: ScoredSplit, names: tuple[str, str], *, replicates: int, seed: int
) -> dict[str, dict[str, Any]]:
    result = {}
    for label, inside in a.by_length():
        part_a, part_b = (ScoredSplit(each.dataset, each.row[inside], each.logit[inside]) for each in (a, b))
        result[label] = {
            "rows": len(part_a.row),
            "users": len(np.unique(part_a.user)),
            "metrics": _differences(part_a, part_b, names, replicates=replicates, seed=seed),
        }
    return result


def _differences(
    a: ScoredSplit, b: ScoredSplit, names: tuple[str, str], *, replicates: int, seed: int
) -> dict[str, dict[str, Any]]:
    if not np.array_equal(a.row, b.row):
        raise InputError("the two runs scored different rows; train both on one dataset")
    found = metric_differences(a.rows, a.logit, b.logit, replicates=replicates, seed=seed)
    return {name: _entry(name, each, names) for name, each in found.items()}


def _entry(metric: str, difference: Difference, names: tuple[str, str]) -> dict[str, Any]:
    figures = {**asdict(difference), "difference": difference.value}
    known = {name: None if isnan(value) else value for name, value in figures.items()}
    defined = known["difference"] is not None and known["low"] is not None
    return {
        **{name: known[name] for name in ("a", "b", "difference", "low", "high")},
        "significant": difference.significant if defined else None,
        "verdict": verdict(metric, difference, names),
    }


def _signed(value: float) -> str:
    """Return a signed figure of four decimals, without its leading zero: +.0157."""
    return f"{value:+.4f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:+.4f}"
