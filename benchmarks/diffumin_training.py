"""What DiffuMIN costs to train, in multiples of TIN: the same batches of the demo log, steps of each model in turn.

L = 500, 64 requests a batch, the log's own candidates (`popular:20`, about 23), d = 32, one thread: `prepare` and
`step` of training, so everything but the cutting of batches. Twice: batches as they come, with histories of any
length, and batches of full histories alone. Variant D has no diffusion; the full model takes one sampled step and adds
the diffusion and the contrastive loss.

Imports and prepares the data in --folder (default .longsight/quality) if it isn't there. Run:
`python benchmarks/diffumin_training.py [--json]`, about 3 minutes; `--profile "full"` shows instead where the time of
one model's steps goes.
"""

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.quality import dataset_of
from benchmarks.support.bars import bar, finish
from benchmarks.support.turns import cpu_seconds
from training.batches import Batch, BatchSource, training_order
from training.dataset import Dataset
from training.fit.memory import keep_freed_memory
from training.fit.step import TrainStep
from training.fitting import fit_encoder
from training.models import build_model
from training.run import feature_spec
from training.settings import resolve_settings

LENGTH: Final = 500
REQUESTS: Final = 64
WARM_UP: Final = 3
MODELS: Final[dict[str, tuple[str, dict[str, object]]]] = {
    "tin": ("tin", {}),
    "variant D": ("diffumin", {"diffusion": False}),
    "full": ("diffumin", {"diffusion": True, "training_steps": 1}),
}
LIMITS: Final = {"variant D": 5.0, "full": 15.0}
"""Most multiples of TIN's time."""
HISTORIES: Final = ("any length", "full")


def batches_of(dataset: Dataset, *, history: str, count: int) -> list[Batch]:
    """Return batches of the training split with all that the models take; `history` is one of HISTORIES."""
    requests, chosen = dataset.requests, dataset.requests_of("train")
    if history == "full":
        chosen = chosen[requests["end"][chosen] - requests["start"][chosen] >= LENGTH]
    encoder = fit_encoder(dataset, history_length=LENGTH)
    source = BatchSource(dataset, encoder, step_of(dataset, "full").model.inputs)
    order = training_order(source, chosen, requests=REQUESTS, generator=np.random.default_rng(0))
    return [source.batch(each, serving=False) for each in order[:count]]


def step_of(dataset: Dataset, name: str) -> TrainStep:
    """Return what trains a model, untrained."""
    model, settings = MODELS[name]
    given = {"history_length": LENGTH, "requests_per_batch": REQUESTS, **settings}
    training, config = resolve_settings(model, schema={}, config_path=None, given=given)
    features = feature_spec(fit_encoder(dataset, history_length=LENGTH))
    torch.manual_seed(0)
    return TrainStep(
        build_model(model, features, config, history_length=LENGTH).train(), training, steps=1_000_000
    )


def seconds_of(dataset: Dataset, *, history: str, rounds: int) -> dict[str, float]:
    """Return the mean seconds of a step of each model, all over the same batches."""
    batches = batches_of(dataset, history=history, count=WARM_UP + rounds)
    runs = {}
    for name in MODELS:
        step, mine = step_of(dataset, name), iter(batches)
        runs[name] = partial(_next_step, step, mine)
    taken = cpu_seconds(runs, rounds=len(batches) - WARM_UP, warm_up=WARM_UP)
    return {name: float(seconds_T.mean()) for name, seconds_T in taken.items()}


def _next_step(step: TrainStep, batches: Iterator[Batch]) -> float:
    batch = next(batches)
    tensors = {name: batch.tensors[name] for name in step.model.inputs}
    return step.step(replace(batch, tensors=tensors))


def show_profile(dataset: Dataset, name: str, *, rounds: int) -> None:
    """Print which of torch's operators the steps of a model spend their time in."""
    batches = iter(batches_of(dataset, history="full", count=WARM_UP + rounds))
    step = step_of(dataset, name)
    for batch in itertools.islice(batches, WARM_UP):
        step.step(batch)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for batch in batches:
            step.step(batch)
    print(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=30, max_name_column_width=45))


def main() -> None:
    """Time every model; print a table and the bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--folder", type=Path, default=Path(".longsight/quality"), help="datasets")
    parser.add_argument("--rounds", type=int, default=40, help="batches")
    parser.add_argument("--profile", choices=[*MODELS], help="show one model's operators, and end")
    given = parser.parse_args()
    keep_freed_memory()  # as `train` does
    torch.set_num_threads(1)
    dataset = Dataset.open(dataset_of(given.folder, "popular:20"))
    if given.profile:
        show_profile(dataset, given.profile, rounds=given.rounds)
        return
    tables: dict[str, dict[str, float]] = {}
    bars = []
    for history in HISTORIES:
        tables[history] = seconds = seconds_of(dataset, history=history, rounds=given.rounds)
        print(f"{f'histories: {history}':<24}{'ms a step':>10}{'x TIN':>8}")
        for name, each in seconds.items():
            print(f"{name:<24}{each * 1e3:>10.1f}{each / seconds['tin']:>8.2f}", flush=True)
        for name, limit in LIMITS.items():
            title = f"{name}, histories: {history}: times TIN"
            bars.append(bar(title, seconds[name] / seconds["tin"], "<=", limit))
    finish({"seconds_of_a_step": tables}, bars, as_json=given.json)


if __name__ == "__main__":
    main()
