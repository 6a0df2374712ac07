"""Ranking quality on the demo task by model and history length, several seeds: what is noise, and what isn't.

Every model at L = 20, 50, 200, 1000 with three seeds, on the whole log (`popular:20`), judged on the test weeks.
Intervals are 95 % ranges of a bootstrap over users; those of differences are paired: both sides see the same rows,
the same draws of users, and are means over the same seeds.

Imports and prepares the data in --folder (default .longsight/quality) and trains what has no scores there yet, seed
after seed, so it may be stopped and goes on. Run: `python benchmarks/quality_lengths.py [--json] [--seeds 3]`; about
half an hour a seed on 2 cores, most of it for DIN at L = 1000.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality import dataset_of
from benchmarks.support.bars import bar, finish
from training.bootstrap import Rows
from training.dataset import Dataset
from training.metrics import evaluate_metrics
from training.replicates import METRICS, replicate_metrics
from training.run import Run
from training.scored import ScoredSplit, score_split
from training.train import train

LENGTHS: Final = (20, 50, 200, 1000)
MODELS: Final = ("mean_pool", "tin", "din")
SHOWN: Final = ("gauc", "log_loss", "ne", "pcoc")
REPLICATES: Final = 1000


@dataclass(frozen=True)
class Setting:
    """A model at a history length."""

    model: str
    length: int

    def __str__(self) -> str:
        """Return its name in the tables."""
        return self.model if self.model == "popularity" else f"{self.model} L {self.length}"


SETTINGS: Final = (
    Setting("popularity", 1),
    *(Setting(model, length) for length in LENGTHS for model in MODELS),
)
PAIRS: Final = (
    *((Setting(model, 1000), Setting(model, 50)) for model in MODELS),
    *((Setting(model, 1000), Setting(model, 200)) for model in MODELS),
    *((Setting("tin", length), Setting("din", length)) for length in LENGTHS),
    *((Setting(model, 1000), Setting("mean_pool", 1000)) for model in ("tin", "din")),
)
"""Differences worth an interval: what length brings each model, and what the model brings at a length."""


def scores(
    dataset: Dataset, runs: Path, setting: Setting, seed: int, *, train_missing: bool
) -> NDArray[np.float32] | None:
    """Return the calibrated log-odds of the test rows; trained and scored unless that is done or not wanted."""
    run = runs / f"{setting.model}-{setting.length}-seed-{seed}"
    kept = runs / f"{run.name}.npy"
    if not kept.exists():
        if not train_missing:
            return None
        if not (run / "run.json").exists():
            length = {} if setting.model == "popularity" else {"history_length": setting.length}
            train(dataset.path, run, model=setting.model, settings=dict(length), seed=seed)
        np.save(kept, score_split(Run.load(run), dataset, dataset.requests_of("test")).logit)
    logit: NDArray[np.float32] = np.load(kept)
    return logit


def minutes(runs: Path, setting: Setting, seeds: int) -> float:
    """Return the mean time of training, validation and calibration included."""
    folders = [runs / f"{setting.model}-{setting.length}-seed-{seed}" for seed in range(seeds)]
    return float(np.mean([json.loads((run / "run.json").read_text())["seconds"] for run in folders])) / 60


def tables(
    rows: Rows, scored: dict[Setting, list[NDArray[np.float32]]], runs: Path
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the table of settings and that of differences."""
    drawn: dict[Setting, NDArray[np.float64]] = {}
    settings = []
    for setting, logits in scored.items():
        # the mean over seeds within each draw of users
        drawn_BSM = replicate_metrics(rows, logits, replicates=REPLICATES, seed=0, curves=False)
        drawn[setting] = drawn_BSM.mean(axis=1)
        everyone = np.array([list(_metrics(rows, logit)) for logit in logits])
        entry: dict[str, Any] = {
            "setting": str(setting),
            "seeds": len(logits),
            "minutes": minutes(runs, setting, len(logits)),
        }
        for name in SHOWN:
            index = METRICS.index(name)
            entry[name] = float(everyone[:, index].mean())
            entry[f"{name}_seeds_sd"] = float(everyone[:, index].std(ddof=1)) if len(logits) > 1 else None
            entry[f"{name}_interval"] = _interval(drawn[setting][:, index])
        settings.append(entry)
    yield "settings", settings
    by_name = {entry["setting"]: entry for entry in settings}
    differences = []
    for first, second in PAIRS:
        if first not in drawn or second not in drawn:
            continue
        entry = {"a": str(first), "b": str(second)}
        for name in ("gauc", "log_loss"):
            low, high = _interval((drawn[first] - drawn[second])[:, METRICS.index(name)])
            entry[name] = by_name[str(first)][name] - by_name[str(second)][name]
            entry[f"{name}_interval"] = (low, high)
            entry[f"{name}_significant"] = low > 0 or high < 0
        differences.append(entry)
    yield "differences", differences


def _metrics(rows: Rows, logit: NDArray[np.float32]) -> Iterator[float]:
    found = evaluate_metrics(rows.user, rows.clicked, logit, rows.weight)
    return (found[name] for name in METRICS)


def _interval(drawn_B: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(drawn_B, [0.025, 0.975])
    return float(low), float(high)


def show(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print both tables."""
    print(
        f"{'setting':<18}{'seeds':>6}{'minutes':>8}{'GAUC':>8}{'interval':>18}"
        f"{'sd seeds':>10}{'log loss':>10}{'PCOC':>8}"
    )
    for entry in found["settings"]:
        low, high = entry["gauc_interval"]
        spread = entry["gauc_seeds_sd"]
        print(
            f"{entry['setting']:<18}{entry['seeds']:>6}{entry['minutes']:>8.1f}{entry['gauc']:>8.4f}{f'{low:.4f}..{high:.4f}':>18}"
            f"{'-' if spread is None else f'{spread:.4f}':>10}{entry['log_loss']:>10.4f}{entry['pcoc']:>8.3f}"
        )
    print(f"{'a':<18}{'b':<18}{'GAUC a - b':>11}{'interval':>20}{'log loss a - b':>16}{'interval':>20}")
    for entry in found["differences"]:
        cells = f"{entry['a']:<18}{entry['b']:<18}"
        for name, width in (("gauc", 11), ("log_loss", 16)):
            low, high = entry[f"{name}_interval"]
            star = "*" if entry[f"{name}_significant"] else " "
            cells += f"{entry[name]:>{width}.4f}{f'{low:+.4f}..{high:+.4f}{star}':>20}"
        print(cells)
    print("* the interval excludes 0")


def main() -> None:
    """Train what is missing; print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--folder", type=Path, default=Path(".longsight/quality"), help="datasets and runs")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. n - 1")
    parser.add_argument("--kept", action="store_true", help="train nothing: show what was scored before")
    given = parser.parse_args()
    dataset = Dataset.open(dataset_of(given.folder, "popular:20"))
    runs = given.folder / "lengths"
    runs.mkdir(exist_ok=True)
    scored: dict[Setting, list[NDArray[np.float32]]] = {setting: [] for setting in SETTINGS}
    for seed in range(given.seeds):
        for setting in SETTINGS:
            found = scores(dataset, runs, setting, seed, train_missing=not given.kept)
            if found is not None:
                scored[setting].append(found)
                print(f"seed {seed}: {setting} scored", flush=True)
    test = dataset.requests_of("test")
    rows = ScoredSplit(dataset, np.sort(dataset.rows_of(test)), scored[SETTINGS[0]][0]).rows
    result = dict(tables(rows, {setting: logits for setting, logits in scored.items() if logits}, runs))
    show(result)
    finished = sum(len(logits) for logits in scored.values())
    bars = [bar("runs measured", finished, ">=", 3 * len(SETTINGS))]
    finish({"seeds": given.seeds, "replicates": REPLICATES, **result}, bars, as_json=given.json)


if __name__ == "__main__":
    main()
