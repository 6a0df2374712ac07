"""What DiffuMIN's parts bring on the demo task, and against DIN and TIN: GAUC with paired intervals.

Without flags: the whole log (`popular:20`), three seeds: TIN (L = 500), DIN (L = 200), variant D (no diffusion) and
the full model (L = 500); runs of `quality_lengths.py` that fit are used. With `--ablations`: 600 households, one seed,
L = 500: the full model, the model without each of its parts or with another form of it, how many steps it takes when
it scores, and how alike the interests of its channels are, with routing and by plain similarity.

Trains what has no scores in --folder (default .longsight/quality) yet, so it may be stopped and goes on; `--kept`
trains nothing. Run: `python benchmarks/quality_diffumin.py [--ablations] [--kept] [--json]`; hours on 2 cores.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.quality import dataset_of
from benchmarks.quality_lengths import FOLDER, at_length
from benchmarks.support.bars import bar, finish
from benchmarks.support.channels import diversity
from benchmarks.support.kept_runs import REPLICATES, KeptRun, Logits, fresh, judged_rows, scores, show, tables
from training.dataset import Dataset
from training.models import build_model, default_config
from training.run import Run, feature_spec
from training.scored import score_split

LENGTH: Final = 500
HOUSEHOLDS: Final = 600
JUDGED: Final = 500
"""Test requests that the diversity is measured on."""


def diffumin(title: str, stem: str, settings: Mapping[str, object]) -> KeptRun:
    """Return DiffuMIN at L = 500 with some settings; the full model's run where they change nothing about it."""
    full = default_config("diffumin") | {"diffusion": True}
    if all(full[name] == value for name, value in settings.items()):
        stem = "diffumin"
    given = {"history_length": LENGTH, "diffusion": True, **settings}
    return KeptRun(title, f"{stem}-{LENGTH}", "diffumin", given)


TIN, DIN = at_length("tin", 500), at_length("din", 200)
VARIANT_D: Final = diffumin("diffumin variant D", "diffumin_d", {"diffusion": False})
FULL: Final = diffumin("diffumin", "diffumin", {})
SETTINGS: Final = (TIN, DIN, VARIANT_D, FULL)

WITHOUT_ROUTING: Final = diffumin("A: plain similarity", "a", {"routing": False})
ABLATIONS: Final = (
    FULL,
    WITHOUT_ROUTING,
    diffumin("B: generated alone", "b", {"head_interests": "generated"}),
    diffumin("C: no contrast", "c", {"contrast_weight": 0.0}),
    VARIANT_D,
    diffumin("D by plain similarity", "d_a", {"diffusion": False, "routing": False}),
    diffumin("E: no short term", "e", {"short_term": "none"}),
    diffumin("D, no short term", "d_e", {"diffusion": False, "short_term": "none"}),
    *(
        diffumin(
            f"short term {kind}, 2 layers",
            f"short_term_{kind}_2",
            {"short_term": kind, "short_term_layers": 2},
        )
        for kind in ("full", "history_only")
    ),
    diffumin("paper_literal", "paper_literal", {"paper_literal": True}),
    diffumin("eps", "eps", {"parametrisation": "eps"}),
    diffumin("cosine", "cosine", {"schedule": "cosine"}),
    diffumin("sampler_gradient", "sampler_gradient", {"sampler_gradient": True}),
    diffumin("by count", "count", {"aggregation": "count"}),
    diffumin("by score", "score", {"aggregation": "score"}),
)
"""Trained on some of the households; each is compared with FULL."""
STEPS: Final = (1, 5, 10, 20)
"""Steps of the sampler when the full model scores; it is trained once."""


def all_scores(
    dataset: Dataset, runs: Path, wanted: Sequence[KeptRun], *, seeds: int, train_missing: bool
) -> dict[KeptRun, list[Logits]]:
    """Return the scores of every run by seed, seed after seed; trained where missing and wanted."""
    runs.mkdir(exist_ok=True)
    scored: dict[KeptRun, list[Logits]] = {kept: [] for kept in wanted}
    for seed in range(seeds):
        for kept in wanted:
            found = scores(dataset, runs, kept, seed, train_missing=train_missing)
            if found is not None:
                scored[kept].append(found)
                print(f"seed {seed}: {kept.title} scored", flush=True)
    return scored


def with_steps(dataset: Dataset, runs: Path, steps: int) -> tuple[KeptRun, Logits]:
    """Return the scores of the full model, seed 0, with so many steps of the sampler; kept like any."""
    kept = replace(FULL, title=f"diffumin, {steps} steps")
    file = runs / f"{FULL.stem}-{steps}-steps-seed-0.npy"
    if not fresh(file, FULL.folder(runs, 0)):
        run = Run.load(FULL.folder(runs, 0))
        settings = {**run.config, "diffusion_steps": steps}
        model = build_model(
            "diffumin", feature_spec(run.encoder), settings, history_length=run.history_length
        )
        model.load_state_dict(run.model.state_dict())
        other = replace(run, model=model.eval())
        np.save(file, score_split(other, dataset, dataset.requests_of("test")).logit)
    logit: Logits = np.load(file)
    return kept, logit


def compare(folder: Path, *, seeds: int, train_missing: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure against DIN and TIN on the whole log; returns the tables and the bars."""
    dataset = Dataset.open(dataset_of(folder, "popular:20"))
    runs = folder / FOLDER
    scored = all_scores(dataset, runs, SETTINGS, seeds=seeds, train_missing=train_missing)
    whole = {kept: logits for kept, logits in scored.items() if logits}
    pairs = [(VARIANT_D, TIN), (VARIANT_D, DIN), (FULL, VARIANT_D), (FULL, TIN), (FULL, DIN)]
    found = tables(judged_rows(dataset, next(iter(whole.values()))[0]), whole, runs, pairs=pairs)
    show(found)
    gauc = {entry["setting"]: entry["gauc"] for entry in found["settings"]}
    better = max((TIN, DIN), key=lambda kept: gauc.get(kept.title, 0.0))
    bars = [
        _bar_of(found, VARIANT_D, better, seeds=seeds),
        _bar_of(found, FULL, VARIANT_D, seeds=seeds),
        bar("seeds of every model", min(len(logits) for logits in scored.values()), ">=", 3),
    ]
    return {"seeds": seeds, "replicates": REPLICATES, **found}, bars


def _bar_of(found: Mapping[str, Any], a: KeptRun, b: KeptRun, *, seeds: int) -> dict[str, Any]:
    entry = next((e for e in found["differences"] if (e["a"], e["b"]) == (a.title, b.title)), None)
    name = f"{a.title} above {b.title}, GAUC, mean of {seeds} seeds"
    return bar(name, None if entry is None else entry["gauc"], ">=", 0.0)


def ablate(
    folder: Path, *, households: int, train_missing: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure the parts of the model on some households; returns the tables and the bars."""
    dataset = Dataset.open(dataset_of(folder, "popular:20", households=households))
    runs = folder / f"ablations-{households}"
    scored = all_scores(dataset, runs, ABLATIONS, seeds=1, train_missing=train_missing)
    if not scored[FULL]:
        raise SystemExit(f"{runs} holds no run of the full model; leave --kept out")
    rows = judged_rows(dataset, scored[FULL][0])
    found: dict[str, Any] = tables(rows, scored, runs, pairs=[(kept, FULL) for kept in ABLATIONS[1:]])
    show(found)
    by_steps = dict(with_steps(dataset, runs, steps) for steps in STEPS)
    sampled = tables(
        rows,
        {FULL: scored[FULL], **{kept: [logit] for kept, logit in by_steps.items()}},
        runs,
        pairs=[(kept, FULL) for kept in by_steps],
    )
    show(sampled)
    alike = {}
    for kept in (FULL, VARIANT_D, WITHOUT_ROUTING):
        if scored[kept]:
            run = Run.load(kept.folder(runs, 0))
            alike[kept.title] = diversity(run, dataset, requests=JUDGED)
            shown = "  ".join(f"{name} {value:.4g}" for name, value in alike[kept.title].items())
            print(f"{kept.title:<24}{shown}")
    return {**found, "steps": sampled, "diversity": alike}, diversity_bars(alike)


def diversity_bars(alike: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return the bars: interests found by routing are less alike than those found by similarity alone."""
    plain = alike.get(WITHOUT_ROUTING.title)
    bars = []
    for kept in (FULL, VARIANT_D):
        routed = alike.get(kept.title)
        value = None
        if plain is not None and routed is not None:
            value = plain["mean_absolute_cosine"] - routed["mean_absolute_cosine"]
        bars.append(bar(f"{kept.title}: mean |cos| of interests below ablation A's", value, ">", 0.0))
    return bars


def main() -> None:
    """Train what is missing; print the tables and the bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--folder", type=Path, default=Path(".longsight/quality"), help="datasets and runs")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. n - 1; ablations have one")
    parser.add_argument("--kept", action="store_true", help="train nothing: show what was scored before")
    parser.add_argument("--ablations", action="store_true", help="the parts, on some households")
    parser.add_argument("--households", type=int, default=HOUSEHOLDS, help="of the ablations")
    given = parser.parse_args()
    if given.ablations:
        found, bars = ablate(given.folder, households=given.households, train_missing=not given.kept)
    else:
        found, bars = compare(given.folder, seeds=given.seeds, train_missing=not given.kept)
    finish(found, bars, as_json=given.json)


if __name__ == "__main__":
    main()
