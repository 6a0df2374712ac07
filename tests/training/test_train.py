"""A dataset becomes a run, and a run becomes metrics and predictions."""

import json
import math
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from cli.values import parse_settings
from contract.errors import InputError, LongsightError, RunError
from contract.schema import Schema
from tests.support.logs import write_log
from training.batches import BatchSource, training_order
from training.dataset import Dataset
from training.evaluate import evaluate, probability_of
from training.fit import job
from training.fit.trainer import Trainer
from training.fitting import fit_encoder
from training.models import CtrModel, build_model
from training.prepare import prepare
from training.run import Run
from training.settings import resolve_settings
from training.train import train

FAST = {
    "epochs": 2,
    "requests_per_batch": 16,
    "learning_rate": 1e-2,
    "embedding_width": 8,
    "history_length": 20,
}


@pytest.fixture(name="log", scope="module")
def _log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("log"))


@pytest.fixture(name="dataset", scope="module")
def _dataset(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dataset") / "d"
    prepare(log, path)
    return path


@pytest.fixture(name="runs", scope="module")
def _runs(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one run of each model."""
    folder = tmp_path_factory.mktemp("runs")
    for model in ("din", "tin", "mean_pool"):
        train(dataset, folder / model, model=model, settings={**FAST, "epochs": 6})
    train(dataset, folder / "popularity", model="popularity")
    return folder


@pytest.mark.parametrize("model", ["din", "tin", "mean_pool"])
def test_a_model_that_reads_histories_beats_popularity(runs: Path, model: str) -> None:
    assert evaluate(runs / model)["gauc"] > evaluate(runs / "popularity")["gauc"] + 0.05


@pytest.mark.parametrize("model", ["din", "tin", "mean_pool", "popularity"])
def test_metrics_have_the_names_of_the_contract(runs: Path, model: str) -> None:
    metrics = evaluate(runs / model, split="validation")
    for name in ("rows", "requests", "users", "auc", "gauc", "log_loss", "ne", "pcoc", "ece", "by_length"):
        assert name in metrics
    assert metrics["pcoc"] == pytest.approx(1.0, abs=0.02)  # calibrated on this very split, half a day long


def test_a_run_keeps_what_is_needed_to_repeat_it(runs: Path, dataset: Path) -> None:
    run = Run.load(runs / "tin")
    assert run.provenance["seed"] == 0
    assert run.provenance["dataset_fingerprint"] == Dataset.open(dataset).fingerprint
    assert run.record["settings"]["epochs"] == 6
    assert run.record["config"]["embedding_width"] == 8
    assert {"git_revision", "longsight", "created"} < run.provenance.keys()
    assert run.provenance["versions"].keys() == {"torch", "numpy", "polars"}
    assert (run.provenance["device"], run.provenance["processes"]) == ("cpu", 1)
    assert run.provenance["threads"] == torch.get_num_threads()
    lines = [json.loads(line) for line in (runs / "tin" / "metrics.jsonl").read_text().splitlines()]
    epochs = [line["epoch"] for line in lines if "validation" in line]
    assert epochs == list(range(len(epochs)))
    steps = [line["step"] for line in lines if "step" in line]
    assert steps == sorted(set(steps))
    assert 20 < len(steps) <= 200
    assert all(line["loss"] > 0 and line["learning_rate"] > 0 for line in lines if "step" in line)


def test_the_same_seed_gives_the_same_weights(dataset: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(dataset, tmp_path / name, model="tin", settings={**FAST, "epochs": 1}, seed=seed)
    a, b, c = (Run.load(tmp_path / name).model.state_dict() for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["din", "tin", "mean_pool"])
def test_a_run_trained_on_cuda_ranks_like_one_of_the_cpu(dataset: Path, tmp_path: Path, model: str) -> None:
    for device in ("cpu", "cuda"):
        train(dataset, tmp_path / device, model=model, settings=FAST, device=device)
    on_cpu, on_cuda = (evaluate(tmp_path / device)["gauc"] for device in ("cpu", "cuda"))
    assert on_cuda == pytest.approx(on_cpu, abs=0.02)
    assert Run.load(tmp_path / "cuda").provenance["device"] == "cuda"


def test_predictions_are_the_logs_rows_in_its_order_with_its_types(
    runs: Path, log: Path, tmp_path: Path
) -> None:
    evaluate(runs / "tin", split="test", predictions=tmp_path / "out" / "p.parquet")
    predictions = pl.read_parquet(tmp_path / "out" / "p.parquet")
    logged = pl.read_parquet(log / "impressions.parquet").filter(pl.col("timestamp") >= 85_000)
    columns = ["user_id", "ad_id", "timestamp", "request_id", "clicked"]
    assert predictions.columns == [*columns, "probability", "logit"]
    assert predictions.select(columns).equals(logged.select(columns))
    assert predictions["logit"].dtype == pl.Float32
    assert predictions["probability"].to_list() == probability_of(predictions["logit"].to_numpy()).tolist()


def test_vocabularies_come_from_the_training_period_alone(dataset: Path) -> None:
    opened = Dataset.open(dataset)
    encoder = fit_encoder(opened, history_length=10)
    early = opened.records["kind"][opened.records["timestamp"] < 70_000]
    shown = opened.column("ad", "kind")[opened.row("ad")[opened.rows_of(opened.requests_of("train"))]]
    assert encoder.vocabularies["kind"].known.tolist() == sorted({*early.tolist(), *shown.tolist()} - {0})


def test_every_training_request_is_in_exactly_one_batch(dataset: Path) -> None:
    opened = Dataset.open(dataset)
    source = BatchSource(opened, fit_encoder(opened, history_length=10), ("history_mask", "ad_ad_id"))
    chosen = opened.requests_of("train")
    order = training_order(source, chosen, requests=7, generator=np.random.default_rng(0))
    assert sorted(np.concatenate(order).tolist()) == chosen.tolist()


def test_outside_training_a_position_is_its_constant(dataset: Path) -> None:
    opened = Dataset.open(dataset)
    source = BatchSource(opened, fit_encoder(opened, history_length=10), ("context_position",))
    chosen = opened.requests_of("test")[:3]
    assert set(source.batch(chosen, serving=True).tensors["context_position"].ravel().tolist()) == {1.0}
    assert len(set(source.batch(chosen, serving=False).tensors["context_position"].ravel().tolist())) > 1


def test_a_loss_that_is_no_number_stops_and_leaves_nothing(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(name: str, *given: Any, **settings: Any) -> CtrModel:
        model = build_model(name, *given, **settings)
        with torch.no_grad():
            next(model.parameters()).fill_(math.nan)
        return model

    monkeypatch.setattr(job, "build_model", spoilt)
    with pytest.raises(LongsightError, match="not a number"):
        train(dataset, tmp_path / "run", model="tin", settings=FAST)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("when", ["in the loss", "after the last step"])
def test_a_later_epoch_without_numbers_keeps_the_last_good_checkpoint(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    whole = Trainer._epoch

    def spoilt(trainer: Any, started: float) -> float:
        epoch = trainer.at.epoch
        loss = whole(trainer, started)
        if epoch == 1 and when == "after the last step":
            with torch.no_grad():
                next(trainer.model.parameters()).fill_(math.nan)
        return math.nan if epoch == 1 and when == "in the loss" else loss

    monkeypatch.setattr(Trainer, "_epoch", spoilt)
    with pytest.raises(LongsightError, match=r"not a number in epoch 2.*kept the checkpoint of epoch 1"):
        train(dataset, tmp_path / "run", model="mean_pool", settings=FAST | {"epochs": 3, "patience": 9})
    run = Run.load(tmp_path / "run")
    assert run.record["best_epoch"] == 0
    assert all(bool(value.isfinite().all()) for value in run.model.state_dict().values())


def test_a_run_whose_dataset_changed_is_refused(log: Path, tmp_path: Path) -> None:
    prepare(log, tmp_path / "d")
    train(tmp_path / "d", tmp_path / "run", model="popularity")
    prepare(log, tmp_path / "d", history_lag_s=9)
    with pytest.raises(RunError, match="has changed"):
        evaluate(tmp_path / "run")


def test_a_damaged_or_missing_run_is_named(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such file"):
        Run.load(tmp_path)
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "run.json").write_bytes((runs / "tin" / "run.json").read_bytes())
    with pytest.raises(RunError, match="damaged"):
        Run.load(copy)


@pytest.mark.parametrize("opener", [Run.load, Dataset.open])
def test_a_marker_of_brackets_is_named(tmp_path: Path, opener: Any) -> None:
    for marker in ("run.json", "dataset.json"):
        (tmp_path / marker).write_text("[" * 100_000)
    with pytest.raises(InputError, match="not readable"):
        opener(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"no weights", b"PK\x03\x04 no weights"], ids=["empty", "text", "zip"]
)
@pytest.mark.parametrize("file", ["checkpoint.pt", "vocabularies/kind.npy"])
def test_a_run_with_a_damaged_file_is_named(runs: Path, tmp_path: Path, file: str, content: bytes) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "tin", run)
    (run / file).write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        Run.load(run)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"histroy_length": 5}, "no setting 'histroy_length'"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": "two"}, "epochs"),
        ({"embedding_width": "wide"}, "embedding_width"),
        ({"learning_rate": -1.0}, "learning_rate"),
    ],
)
def test_a_wrong_setting_is_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_settings("tin", schema={}, config_path=None, given=given)


def test_set_wins_over_config_over_schema_over_default(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text("epochs = 4\nhistory_length = 44\n")
    schema = {"epochs": 3, "history_length": 33, "embedding_width": 24}
    settings, config = resolve_settings(
        "tin", schema=schema, config_path=tmp_path / "f.toml", given={"history_length": 55}
    )
    assert (settings.history_length, settings.epochs, config["embedding_width"]) == (55, 4, 24)


@pytest.mark.parametrize("place", ["schema", "config", "--set"])
def test_sizes_can_be_given_wherever_a_setting_can(tmp_path: Path, place: str) -> None:
    (tmp_path / "f.toml").write_text("head_hidden = [7, 5]\n")
    fields = tomllib.loads((write_log(tmp_path / "log") / "schema.toml").read_text())
    schema = Schema.from_json({**fields, "train": {"head_hidden": [7, 5]}})
    _, config = resolve_settings(
        "tin",
        schema=Schema.from_json(schema.to_json()).train if place == "schema" else {},
        config_path=tmp_path / "f.toml" if place == "config" else None,
        given=parse_settings(["head_hidden=[7, 5]"]) if place == "--set" else {},
    )
    assert config["head_hidden"] == (7, 5)


def test_an_unknown_model_or_split_is_named(dataset: Path, runs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such model; there are din, tin"):
        train(dataset, tmp_path / "run", model="dien")
    with pytest.raises(InputError, match="no such split"):
        evaluate(runs / "tin", split="future")


def test_a_validation_without_a_user_of_both_classes_is_judged_by_its_log_loss(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    impressions = pl.read_parquet(log / "impressions.parquet")
    late = pl.col("timestamp") >= 70_000
    first = pl.col("user_id").is_in([f"u{i}" for i in range(20)])
    clicked = pl.when(late).then(first.cast(pl.Int64)).otherwise(pl.col("clicked"))
    impressions.with_columns(clicked=clicked).write_parquet(log / "impressions.parquet")
    prepare(log, tmp_path / "dataset")
    record = train(tmp_path / "dataset", tmp_path / "run", model="mean_pool", settings=FAST)
    assert record["metrics"]["validation"]["gauc"] is None
    assert json.loads((tmp_path / "run" / "run.json").read_text())["best_epoch"] >= 0


def test_calibration_leans_to_the_newest_validation_rows_unless_told_otherwise(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    impressions = pl.read_parquet(log / "impressions.parquet")
    rising = pl.when(pl.col("timestamp").is_between(78_000, 84_999)).then(1).otherwise(pl.col("clicked"))
    impressions.with_columns(clicked=rising).write_parquet(log / "impressions.parquet")
    prepare(log, tmp_path / "dataset")
    shift = {}
    for days in (0.0, 0.02):
        settings = {"calibration_half_life_days": days}
        record = train(tmp_path / "dataset", tmp_path / "run", model="popularity", settings=settings)
        shift[days] = record["metrics"]["validation"]["pcoc"]
    assert shift[0.0] == pytest.approx(1.0, abs=1e-3)
    assert shift[0.02] > 1.05
