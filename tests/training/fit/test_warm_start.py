"""`--init-from`: a new day begins with the scores of the day before."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from contract.errors import InputError
from tests.support.logs import write_log
from training.batches import BatchSource
from training.dataset import Dataset
from training.fit.warm_start import start_from, warm_encoder
from training.fitting import fit_encoder
from training.models import build_model
from training.prepare import prepare
from training.run import Run, feature_spec
from training.scoring import score_requests
from training.train import train

FAST = {
    "requests_per_batch": 16,
    "embedding_width": 8,
    "history_length": 20,
    "epochs": 2,
    "learning_rate": 0.01,
}


def _later(log: Path) -> Path:
    """Let the log go on: items 0 to 9 are shown no more, items 60 to 69 are new."""
    for name, column in (("behaviors", "item_id"), ("impressions", "ad_id"), ("ads", "ad_id")):
        table = pl.read_parquet(log / f"{name}.parquet")
        moved = pl.when(pl.col(column) < 10).then(pl.col(column) + 60).otherwise(pl.col(column))
        table.with_columns(moved.alias(column)).write_parquet(log / f"{name}.parquet")
    return log


@pytest.fixture(name="days", scope="module")
def _days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with datasets `one` and `two`, and runs of `one`."""
    folder = tmp_path_factory.mktemp("days")
    prepare(write_log(folder / "log1"), folder / "one")
    prepare(_later(write_log(folder / "log2", seed=1)), folder / "two")
    for model in ("tin", "din"):
        train(folder / "one", folder / model, model=model, settings=dict(FAST))
    return folder


@pytest.mark.parametrize("model", ["tin", "din"])
@pytest.mark.parametrize("length", [20, 12])
def test_the_first_scores_are_those_of_the_run_before(days: Path, model: str, length: int) -> None:
    run, dataset = Run.load(days / model), Dataset.open(days / "two")
    encoder = warm_encoder(run, fit_encoder(dataset, history_length=length))
    assert encoder.vocabularies["item"].size != run.encoder.vocabularies["item"].size or not np.array_equal(
        encoder.vocabularies["item"].known, run.encoder.vocabularies["item"].known
    )
    built = build_model(model, feature_spec(encoder), run.config, history_length=length)
    start_from(run, built, encoder)
    chosen = dataset.requests_of("validation")
    sizes = dataset.requests["end"][chosen] - dataset.requests["start"][chosen]
    chosen = chosen[sizes <= length]  # a longer history is cut differently by another L
    assert len(chosen) > 5
    _, old = score_requests(run.model, BatchSource(dataset, run.encoder, run.model.inputs), chosen)
    _, new = score_requests(built, BatchSource(dataset, encoder, built.inputs), chosen)
    assert np.abs(old - new).max() < 1e-5
    assert np.ptp(new) > 0.1


def test_known_ids_keep_their_rows_and_new_ones_begin_out_of_vocabulary(days: Path) -> None:
    run = Run.load(days / "tin")
    encoder = warm_encoder(run, fit_encoder(Dataset.open(days / "two"), history_length=20))
    built = build_model("tin", feature_spec(encoder), run.config, history_length=20)
    start_from(run, built, encoder)
    before, after = run.encoder.vocabularies["item"], encoder.vocabularies["item"]
    old, new = run.model.embedding.table.v_item.weight, built.embedding.table.v_item.weight
    kept = np.intersect1d(before.known, after.known)
    fresh = np.setdiff1d(after.known, before.known)
    assert len(kept) > 30
    assert len(fresh) >= 5
    assert torch.equal(new[after.rows(kept)], old[before.rows(kept)])
    assert torch.equal(new[after.rows(fresh)], old[1 + (fresh % before.buckets).astype(np.int64)])
    assert not new[0].any()


def test_a_longer_history_repeats_the_oldest_code_before_the_known_ones(days: Path) -> None:
    run = Run.load(days / "tin")
    encoder = warm_encoder(run, fit_encoder(Dataset.open(days / "two"), history_length=25))
    built = build_model("tin", feature_spec(encoder), run.config, history_length=25)
    start_from(run, built, encoder)
    old, new = run.model.time.rank_LD, built.time.rank_LD
    assert torch.equal(new[5:], old)
    assert torch.equal(new[:5], old[:1].expand(5, -1))


def test_a_warm_start_is_ahead_of_a_cold_one_and_stands_in_the_record(days: Path, tmp_path: Path) -> None:
    short = {**FAST, "epochs": 1, "learning_rate": 1e-3}
    cold = train(days / "two", tmp_path / "cold", model="tin", settings=dict(short))
    warm = train(days / "two", tmp_path / "warm", model="tin", settings=dict(short), init_from=days / "tin")
    assert warm["metrics"]["validation"]["log_loss"] < cold["metrics"]["validation"]["log_loss"]
    assert warm["provenance"]["init_from"] == str((days / "tin").resolve())
    assert cold["provenance"]["init_from"] is None


@pytest.mark.parametrize(
    ("model", "changed", "message"),
    [
        ("mean_pool", {}, "is a tin, not a mean_pool"),
        ("tin", {"embedding_width": 16}, "embedding_width = 8 there and 16 here"),
        ("tin", {"temporal": "rank"}, "temporal = both there and rank here"),
        ("popularity", {}, "popularity is counted, not trained"),
    ],
)
def test_a_run_that_does_not_fit_is_refused_by_name(
    days: Path, tmp_path: Path, model: str, changed: dict, message: str
) -> None:
    settings = {} if model == "popularity" else {**FAST, **changed}
    with pytest.raises(InputError, match=message):
        train(days / "two", tmp_path / "run", model=model, settings=settings, init_from=days / "tin")
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_another_schema_is_refused(days: Path, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    text = (log / "schema.toml").read_text().replace("oov_buckets = 4", "oov_buckets = 5")
    (log / "schema.toml").write_text(text)
    prepare(log, tmp_path / "d")
    with pytest.raises(InputError, match="other fields or vocabularies"):
        train(tmp_path / "d", tmp_path / "run", model="tin", settings=dict(FAST), init_from=days / "tin")
