"""Trained runs that are kept with their scores: trained once, compared ever after.

Intervals are 95 % ranges of a bootstrap over users; those of differences are paired: both sides see the same rows,
the same draws of users, and are means over the same seeds.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.bootstrap import Rows
from training.dataset import Dataset
from training.metrics import evaluate_metrics
from training.replicates import METRICS, replicate_metrics
from training.run import Run
from training.scored import ScoredSplit, score_split
from training.settings import resolve_settings
from training.train import train

SHOWN: Final = ("gauc", "log_loss", "ne", "pcoc")
REPLICATES: Final = 1000
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class KeptRun:
    """A model and its settings, trained with any seed."""

    title: str
    """Its name in the tables."""
    stem: str
    """Its folders are called `<stem>-seed-<seed>`."""
    model: str = field(compare=False)
    settings: Mapping[str, object] = field(compare=False)

    def folder(self, runs: Path, seed: int) -> Path:
        """Return the run folder."""
        return runs / f"{self.stem}-seed-{seed}"

    def check(self, run: Path, dataset: Dataset) -> None:
        """Raise SystemExit if a run there was trained with other settings than these."""
        record = json.loads((run / "run.json").read_text())
        training, config = resolve_settings(
            self.model, schema=dataset.schema.train, config_path=None, given=dict(self.settings)
        )
        wanted = json.loads(json.dumps({**config, **training.model_dump()}))
        found = {**record["config"], **record["settings"]}
        other = [name for name in wanted if name in found and found[name] != wanted[name]]
        if other:
            changes = ", ".join(f"{name} {found[name]!r}, now {wanted[name]!r}" for name in other)
            raise SystemExit(f"{run} was trained with {changes}; remove it to train it again")


def scores(dataset: Dataset, runs: Path, kept: KeptRun, seed: int, *, train_missing: bool) -> Logits | None:
    """Return the calibrated log-odds of the test rows; trained and scored unless that is done or not wanted.

    Raises:
        SystemExit: the run there was trained with other settings.

    """
    run = kept.folder(runs, seed)
    file = runs / f"{run.name}.npy"
    if not (run / "run.json").exists():
        if not train_missing:
            return None
        train(dataset.path, run, model=kept.model, settings=dict(kept.settings), seed=seed)
    kept.check(run, dataset)
    if not fresh(file, run):
        np.save(file, score_split(Run.load(run), dataset, dataset.requests_of("test")).logit)
    logit: Logits = np.load(file)
    return logit


def fresh(file: Path, run: Path) -> bool:
    """Tell whether scores are there and no older than the run they are of."""
    return file.exists() and file.stat().st_mtime >= (run / "run.json").stat().st_mtime


def judged_rows(dataset: Dataset, logit: Logits) -> Rows:
    """Return the rows of the test split that scores are of."""
    rows = np.sort(dataset.rows_of(dataset.requests_of("test")))
    return ScoredSplit(dataset, rows, logit).rows


def tables(
    rows: Rows,
    scored: Mapping[KeptRun, Sequence[Logits]],
    runs: Path,
    *,
    pairs: Sequence[tuple[KeptRun, KeptRun]],
) -> dict[str, list[dict[str, Any]]]:
    """Return the table of settings and that of differences between pairs; what has no scores is left out."""
    drawn: dict[KeptRun, NDArray[np.float64]] = {}
    settings: dict[KeptRun, dict[str, Any]] = {}
    for kept, logits in scored.items():
        if logits:
            # the mean over seeds within each draw of users
            drawn_BSM = replicate_metrics(rows, logits, replicates=REPLICATES, seed=0, curves=False)
            drawn[kept] = drawn_BSM.mean(axis=1)
            settings[kept] = _setting(rows, kept, logits, drawn[kept], minutes(runs, kept, len(logits)))
    differences = []
    for first, second in pairs:
        if first not in drawn or second not in drawn:
            continue
        entry: dict[str, Any] = {"a": first.title, "b": second.title}
        for name in ("gauc", "log_loss"):
            low, high = _interval((drawn[first] - drawn[second])[:, METRICS.index(name)])
            entry[name] = settings[first][name] - settings[second][name]
            entry[f"{name}_interval"] = (low, high)
            entry[f"{name}_significant"] = low > 0 or high < 0
        differences.append(entry)
    return {"settings": list(settings.values()), "differences": differences}


def minutes(runs: Path, kept: KeptRun, seeds: int) -> float:
    """Return the mean time of training, validation and calibration included."""
    folders = [kept.folder(runs, seed) for seed in range(seeds)]
    return float(np.mean([json.loads((run / "run.json").read_text())["seconds"] for run in folders])) / 60


def show(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Print both tables."""
    wide = 2 + max(17, *(len(entry["setting"]) for entry in found["settings"]))
    print(
        f"{'setting':<{wide}}{'seeds':>6}{'minutes':>8}{'GAUC':>8}{'interval':>18}"
        f"{'sd seeds':>10}{'log loss':>10}{'PCOC':>8}"
    )
    for entry in found["settings"]:
        low, high = entry["gauc_interval"]
        spread = entry["gauc_seeds_sd"]
        print(
            f"{entry['setting']:<{wide}}{entry['seeds']:>6}{entry['minutes']:>8.1f}{entry['gauc']:>8.4f}"
            f"{f'{low:.4f}..{high:.4f}':>18}{'-' if spread is None else f'{spread:.4f}':>10}"
            f"{entry['log_loss']:>10.4f}{entry['pcoc']:>8.3f}"
        )
    print(
        f"{'a':<{wide}}{'b':<{wide}}{'GAUC a - b':>11}{'interval':>20}{'log loss a - b':>16}{'interval':>20}"
    )
    for entry in found["differences"]:
        cells = f"{entry['a']:<{wide}}{entry['b']:<{wide}}"
        for name, width in (("gauc", 11), ("log_loss", 16)):
            low, high = entry[f"{name}_interval"]
            star = "*" if entry[f"{name}_significant"] else " "
            cells += f"{entry[name]:>{width}.4f}{f'{low:+.4f}..{high:+.4f}{star}':>20}"
        print(cells)
    print("* the interval excludes 0")


def _setting(
    rows: Rows, kept: KeptRun, logits: Sequence[Logits], drawn_BM: NDArray[np.float64], spent: float
) -> dict[str, Any]:
    everyone = np.array([list(_metrics(rows, logit)) for logit in logits])
    entry: dict[str, Any] = {"setting": kept.title, "seeds": len(logits), "minutes": spent}
    for name in SHOWN:
        index = METRICS.index(name)
        entry[name] = float(everyone[:, index].mean())
        entry[f"{name}_seeds_sd"] = float(everyone[:, index].std(ddof=1)) if len(logits) > 1 else None
        entry[f"{name}_interval"] = _interval(drawn_BM[:, index])
    return entry


def _metrics(rows: Rows, logit: Logits) -> Iterator[float]:
    found = evaluate_metrics(rows.user, rows.clicked, logit, rows.weight)
    return (found[name] for name in METRICS)


def _interval(drawn_B: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(drawn_B, [0.025, 0.975])
    return float(low), float(high)
