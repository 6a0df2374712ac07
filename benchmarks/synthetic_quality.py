"""Quality against a known truth: how much of what can be learned each model learns, L = 500, three seeds.

Synthesizes the default log in --folder (default .longsight/synthetic), prepares it, trains what has no run there yet,
and evaluates all on the test days. The share of a model is

    (LL_popularity - LL_model) / (LL_popularity - LL_best)

with LL the log loss on the test split and LL_best that of the true probabilities.
Run: `python benchmarks/synthetic_quality.py [--seeds 0 1 2] [--models tin din] [--json]`.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Final

import numpy as np
import polars as pl

from benchmarks.support.bars import bar, finish
from training.dataset import Dataset
from training.evaluate import evaluate
from training.metrics import auc, log_loss
from training.prepare import prepare
from training.run import Run
from training.synthesize.log import synthesize
from training.train import train

COMMON: Final[dict[str, object]] = {"history_length": 500, "epochs": 4}
# The attention mass is a function of <q, k> in the head, so a target-aware representation by itself: what the paper's
# three parts are worth shows without it, as in the paper.
MASSLESS: Final[dict[str, object]] = {"attention_mass": False}
MODELS: Final[dict[str, tuple[str, dict[str, object]]]] = {
    "popularity": ("popularity", {}),
    "mean_pool": ("mean_pool", {}),
    "din": ("din", {"age": True}),
    "tin": ("tin", {}),
    "diffumin_d": ("diffumin", {"diffusion": False}),
    "diffumin": ("diffumin", {"diffusion": True}),
    "tin_no_representation": ("tin", {"target_representation": False}),
    "tin_massless": ("tin", MASSLESS),
    "tin_massless_no_time": ("tin", MASSLESS | {"temporal": "none"}),
    "tin_massless_no_attention": ("tin", MASSLESS | {"target_attention": False}),
    "tin_massless_no_representation": ("tin", MASSLESS | {"target_representation": False}),
}
Shares = Mapping[str, Sequence[float]]
"""Of each model, the share of what can be learned with each seed."""

DIFFUMIN: Final = ("diffumin_d", "diffumin")
"""Variant D, and the full model."""
WHOLE: Final = "tin_massless"
ABLATIONS: Final = ("tin_massless_no_time", "tin_massless_no_attention", "tin_massless_no_representation")


def dataset_of(folder: Path) -> Path:
    """Return the prepared default log, made if it is not there."""
    log, dataset = folder / "log", folder / "dataset"
    if not (dataset / "dataset.json").exists():
        synthesize(log)
        prepare(log, dataset)
    return dataset


def oracle(folder: Path) -> dict[str, float]:
    """Return log loss and AUC of the true probabilities on the test split."""
    test_from = Dataset.open(folder / "dataset").split.test_from
    clicked = pl.read_parquet(folder / "log" / "impressions.parquet", columns=["timestamp", "clicked"])
    truth = pl.read_parquet(folder / "log" / "truth.parquet", columns=["probability"])
    test = (clicked["timestamp"] >= test_from).to_numpy()
    label = clicked["clicked"].to_numpy()[test]
    probability = truth["probability"].to_numpy()[test]
    log_odds = np.log(probability) - np.log1p(-probability)
    return {"log_loss": log_loss(label, log_odds, np.ones(len(label))), "auc": auc(label, log_odds)}


def measure(folder: Path, name: str, seed: int) -> dict[str, float]:
    """Train a model unless its run is there, and evaluate it on the test split."""
    model, settings = MODELS[name]
    run = folder / f"{name}-{seed}"
    if not (run / "run.json").exists():
        length = {} if model == "popularity" else COMMON
        train(folder / "dataset", run, model=model, settings=length | settings, seed=seed)
    metrics = evaluate(run)
    minutes = Run.load(run).record["seconds"] / 60
    return {
        "log_loss": metrics["log_loss"],
        "auc": metrics["auc"],
        "pcoc": metrics["pcoc"],
        "minutes": minutes,
    }


def bars_of(shares: Shares, oracle_auc: float) -> list[dict[str, Any]]:
    """Return the bars, each on the mean over the seeds; None where a model was left out."""
    means = {name: mean(values) for name, values in shares.items()}
    best = max((means[name] for name in ("din", "tin") if name in means), default=None)
    bars = [
        bar("oracle, AUC", oracle_auc, ">=", 0.75),
        bar("oracle, AUC at most", oracle_auc, "<=", 0.85),
        bar("best of din and tin, share of what can be learned", best, ">=", 0.85),
        bar("mean_pool, share of what can be learned", means.get("mean_pool"), "<=", 0.6),
    ]
    for name in DIFFUMIN:
        above = None if best is None or name not in means else means[name] - best
        bars.append(bar(f"{name} above the better of din and tin, share", above, ">", 0.0))
    whole = means.get(WHOLE)
    for name in ABLATIONS:
        without = means.get(name)
        loss = None if whole is None or without is None else whole - without
        bars.append(bar(f"{name}, share lost against {WHOLE}", loss, ">", 0.0))
    return bars


def measure_all(folder: Path, names: Sequence[str], seeds: Sequence[int]) -> tuple[dict[str, Any], Shares]:
    """Measure models with seeds, print the table; returns the tables and the shares by model."""
    dataset_of(folder)
    best, popularity = oracle(folder), measure(folder, "popularity", 0)
    learnable = popularity["log_loss"] - best["log_loss"]
    print(f"oracle      log loss {best['log_loss']:.4f}  AUC {best['auc']:.4f}")
    print(f"popularity  log loss {popularity['log_loss']:.4f}  AUC {popularity['auc']:.4f}")
    print(f"{'model':<30}{'seed':>5}{'log loss':>10}{'AUC':>8}{'share':>8}{'minutes':>9}")
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for seed in seeds:
        for name in names:
            found = measure(folder, name, seed)
            found |= {"seed": seed, "share": (popularity["log_loss"] - found["log_loss"]) / learnable}
            runs[name].append(found)
            figures = f"{found['log_loss']:>10.4f}{found['auc']:>8.4f}{found['share']:>8.3f}"
            print(f"{name:<30}{seed:>5}{figures}{found['minutes']:>9.1f}", flush=True)
    shares = {name: [each["share"] for each in found] for name, found in runs.items()}
    for name, values in shares.items():
        print(f"{name:<30}{'mean':>5}{mean(values):>26.3f}")
    return {"oracle": best, "popularity": popularity, "runs": runs}, shares


def main() -> None:
    """Measure every model with every seed; print a table and the bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument(
        "--folder", type=Path, default=Path(".longsight/synthetic"), help="log, dataset, runs"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of training")
    names = [name for name in MODELS if name != "popularity"]
    parser.add_argument("--models", nargs="+", default=names, choices=names, help="only these")
    given = parser.parse_args()
    tables, shares = measure_all(given.folder, given.models, given.seeds)
    finish(tables, bars_of(shares, tables["oracle"]["auc"]), as_json=given.json)


if __name__ == "__main__":
    main()
