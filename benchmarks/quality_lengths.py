"""Ranking quality on the demo task by model and history length, several seeds: what is noise, and what isn't.

Every model at L = 20, 50, 200, 1000 with three seeds, on the whole log (`popular:20`), judged on the test weeks.
Intervals are 95 % ranges of a bootstrap over users; those of differences are paired: both sides see the same rows,
the same draws of users, and are means over the same seeds.

Imports and prepares the data in --folder (default .longsight/quality) and trains what has no scores there yet, seed
after seed, so it may be stopped and goes on. Run: `python benchmarks/quality_lengths.py [--json] [--seeds 3]`; about
half an hour a seed on 2 cores, most of it for DIN at L = 1000.
"""

import argparse
from pathlib import Path
from typing import Final

from benchmarks.quality import dataset_of
from benchmarks.support.bars import bar, finish
from benchmarks.support.kept_runs import REPLICATES, KeptRun, Logits, judged_rows, scores, show, tables
from training.dataset import Dataset

LENGTHS: Final = (20, 50, 200, 1000)
MODELS: Final = ("mean_pool", "tin", "din")
FOLDER: Final = "lengths"


def at_length(model: str, length: int) -> KeptRun:
    """Return a model at a history length, all else at its default."""
    return KeptRun(f"{model} L {length}", f"{model}-{length}", model, {"history_length": length})


POPULARITY: Final = KeptRun("popularity", "popularity-1", "popularity", {})
SETTINGS: Final = (POPULARITY, *(at_length(model, length) for length in LENGTHS for model in MODELS))
PAIRS: Final = (
    *((at_length(model, 1000), at_length(model, 50)) for model in MODELS),
    *((at_length(model, 1000), at_length(model, 200)) for model in MODELS),
    *((at_length("tin", length), at_length("din", length)) for length in LENGTHS),
    *((at_length(model, 1000), at_length("mean_pool", 1000)) for model in ("tin", "din")),
)
"""Differences worth an interval: what length brings each model, and what the model brings at a length."""


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
    runs = given.folder / FOLDER
    runs.mkdir(exist_ok=True)
    scored: dict[KeptRun, list[Logits]] = {setting: [] for setting in SETTINGS}
    for seed in range(given.seeds):
        for setting in SETTINGS:
            found = scores(dataset, runs, setting, seed, train_missing=not given.kept)
            if found is not None:
                scored[setting].append(found)
                print(f"seed {seed}: {setting.title} scored", flush=True)
    result = tables(judged_rows(dataset, scored[POPULARITY][0]), scored, runs, pairs=PAIRS)
    show(result)
    finished = sum(len(logits) for logits in scored.values())
    bars = [bar("runs measured", finished, ">=", 3 * len(SETTINGS))]
    finish({"seeds": given.seeds, "replicates": REPLICATES, **result}, bars, as_json=given.json)


if __name__ == "__main__":
    main()
