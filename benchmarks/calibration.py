"""Is a score a probability? PCOC of a run trained on `uniform:20`, against the sampled and the whole population.

Two checks on the test weeks: sum w p / sum w y over the sampled rows with w = 1 / sampling rate; and sum p / sum y
over EVERY product promoted to 500 seeded test trips, most of which the sample left out. Run:
`python benchmarks/calibration.py [--json] [--model tin]`.
"""

import argparse
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import torch

from benchmarks.quality import dataset_of
from benchmarks.support.bars import bar, finish
from contract.encoder import Encoder
from training.dataset import Dataset
from training.evaluate import evaluate, probability_of
from training.importers.promoted import promoted_on_trips
from training.run import Run
from training.train import train

TRIPS: Final = 500
SEED: Final = 0


def whole_population(run: Run, dataset: Dataset, log: Path) -> dict[str, Any]:
    """Score every product promoted to seeded test trips through the encoder and the calibrated model."""
    trips = _trips(dataset, log)
    promoted = promoted_on_trips(None, trips["request_id"].cast(pl.Int64).to_list())
    ads = pl.read_parquet(log / "ads.parquet")
    users = pl.read_parquet(log / "users.parquet")
    expected, bought, rows = 0.0, 0, 0
    for trip in trips.iter_rows(named=True):
        chosen = promoted.filter(pl.col("request_id") == int(trip["request_id"]))
        features = chosen.join(ads, on="ad_id", how="left", maintain_order="left")
        profile = users.filter(pl.col("user_id") == trip["user_id"]).to_dicts()
        tensors = _encode(run.encoder, dataset, trip, features, profile[0] if profile else {})
        with torch.inference_mode():
            raw = run.model({name: torch.from_numpy(tensors[name]) for name in run.model.inputs})
        expected += float(probability_of(run.calibration.apply(raw[0].numpy())).sum())
        bought += int(chosen["clicked"].sum())
        rows += chosen.height
    return {
        "trips": len(trips),
        "rows": rows,
        "expected": expected,
        "bought": bought,
        "pcoc": expected / bought,
    }


def _trips(dataset: Dataset, log: Path) -> pl.DataFrame:
    """Return seeded requests of the test split with what was logged of each."""
    impressions = pl.read_parquet(log / "impressions.parquet")
    late = impressions.filter(pl.col("timestamp") >= dataset.split.test_from)
    requests = late.unique("request_id", maintain_order=True).sort("timestamp", "request_id")
    chosen = np.random.default_rng(SEED).choice(len(requests), min(TRIPS, len(requests)), replace=False)
    return requests[np.sort(chosen)]


def _encode(
    encoder: Encoder, dataset: Dataset, trip: dict[str, Any], features: pl.DataFrame, profile: dict[str, Any]
) -> dict[str, Any]:
    requests = dataset.requests
    texts = dataset.names("user")
    user = next(
        index
        for index in np.flatnonzero(requests["timestamp"] == trip["timestamp"])
        if texts.get(int(dataset.user_keys[requests["user"][index]])) == str(trip["user_id"])
    )
    history = dataset.records[requests["start"][user] : requests["end"][user]]
    context = {field.name: trip[field.name] for field in encoder.schema.context}
    per_candidate = {name: features[name].to_list() for name in ("display", "mailer")}
    pair = encoder.ads(features.to_dicts()) | encoder.context(features.height, context, per_candidate)
    return (
        encoder.history([history], [trip["timestamp"]])
        | encoder.users([profile])
        | {name: values[None, :] for name, values in pair.items()}
    )


def main() -> None:
    """Train unless there is a run; print both PCOCs and their bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--folder", type=Path, default=Path(".longsight/quality"), help="datasets and runs")
    parser.add_argument("--model", default="tin", help="which model")
    given = parser.parse_args()
    dataset = dataset_of(given.folder, "uniform:20")
    run = given.folder / f"uniform-{given.model}"
    if not (run / "run.json").exists():
        train(dataset, run, model=given.model, settings={}, seed=0)
    metrics = evaluate(run, split="test")
    whole = whole_population(Run.load(run), Dataset.open(dataset), given.folder / "log-uniform-20")
    print(
        f"sampled rows {metrics['rows']:,}, GAUC {metrics['gauc']:.4f}, PCOC by weights {metrics['pcoc']:.4f}"
    )
    print(
        f"{whole['trips']} whole trips, {whole['rows']:,} rows: "
        f"expected {whole['expected']:.0f}, bought {whole['bought']}"
    )
    bars = [
        bar(f"{name}, {side}", value, sense, limit)
        for name, value in (("PCOC by weights", metrics["pcoc"]), ("PCOC of whole trips", whole["pcoc"]))
        for side, sense, limit in (("lower", ">=", 0.9), ("upper", "<=", 1.1))
    ]
    finish({"sampled": metrics, "whole": whole}, bars, as_json=given.json)


if __name__ == "__main__":
    main()
