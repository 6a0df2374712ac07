"""What no training can use is refused before it begins."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from contract.errors import DatasetError
from tests.support.logs import write_log
from training.dataset import Dataset
from training.fit import job
from training.fit.occurrences import occurrences
from training.fitting import fit_encoder
from training.prepare import prepare
from training.train import train


def _never(*_given: object, **_named: object) -> None:
    raise AssertionError("training began")


@pytest.mark.parametrize("click", [0, 1], ids=["no clicks", "nothing but clicks"])
@pytest.mark.parametrize(("split", "begin", "end"), [("train", 0, 70_000), ("validation", 70_000, 85_000)])
@pytest.mark.parametrize("model", ["tin", "popularity"])
def test_a_split_of_one_class_is_refused_before_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    model: str,
    split: str,
    begin: int,
    end: int,
    click: int,
) -> None:
    log = write_log(tmp_path / "log", users=10)
    impressions = pl.read_parquet(log / "impressions.parquet")
    inside = (pl.col("timestamp") >= begin) & (pl.col("timestamp") < end)
    clicked = pl.when(inside).then(click).otherwise(pl.col("clicked"))
    impressions.with_columns(clicked=clicked).write_parquet(log / "impressions.parquet")
    prepare(log, tmp_path / "d")
    monkeypatch.setattr(job, "fit_encoder", _never)
    with pytest.raises(DatasetError, match=rf"rows of the {split} split are clicked, so there is nothing"):
        train(tmp_path / "d", tmp_path / "run", model=model)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_empty_split_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    prepare(write_log(tmp_path / "log", users=10), tmp_path / "d")
    path = tmp_path / "d" / "requests.npy"
    requests = np.load(path)
    code = ("train", "validation").index(split)
    requests["split"] = np.where(requests["split"] == code, 2, requests["split"])
    np.save(path, requests)
    monkeypatch.setattr(job, "fit_encoder", _never)
    with pytest.raises(DatasetError, match=f"no request in the {split} split"):
        train(tmp_path / "d", tmp_path / "run", model="tin")


def test_occurrences_are_those_of_the_training_batches(tmp_path: Path) -> None:
    """Count the slow way: every row of every training tensor."""
    prepare(write_log(tmp_path / "log", users=10), tmp_path / "d")
    dataset = Dataset.open(tmp_path / "d")
    encoder = fit_encoder(dataset, history_length=7)
    inputs = {
        "item": ("history_item_id", "ad_ad_id"),
        "kind": ("history_kind", "ad_kind"),
        "city": ("user_city",),
        "slot": ("context_slot",),
    }
    source = job.BatchSource(dataset, encoder, tuple(name for names in inputs.values() for name in names))
    expected = {vocabulary: np.zeros(encoder.vocabularies[vocabulary].size) for vocabulary in inputs}
    for request in dataset.requests_of("train"):
        batch = source.batch(np.array([request]), serving=False)
        for vocabulary, names in inputs.items():
            for name in names:
                np.add.at(expected[vocabulary], batch.tensors[name].ravel(), 1)
    for vocabulary, counts in occurrences(dataset, encoder).items():
        # row 0 also stands for padding here, and is never shrunk
        assert (counts[1:] == expected[vocabulary][1:]).all()
        assert counts[1:].sum() > 0
