"""Batches hold the same numbers however the behaviours are encoded."""

import numpy as np
import pytest

from tests.support.logs import write_log
from training import batches
from training.batches import BatchSource
from training.dataset import Dataset
from training.fitting import fit_encoder
from training.prepare import prepare

HISTORY = (
    "history_item_id",
    "history_kind",
    "history_spent",
    "history_action",
    "history_age",
    "history_mask",
)


@pytest.fixture(name="dataset", scope="module")
def _dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("batches")
    write_log(folder / "log")
    prepare(folder / "log", folder / "dataset")
    return Dataset.open(folder / "dataset")


@pytest.mark.parametrize("history_length", [1, 5, 1000])
def test_encoding_a_batch_equals_encoding_the_log(dataset, history_length, monkeypatch):
    encoder = fit_encoder(dataset, history_length=history_length)
    chosen = dataset.requests_of("train")
    at_once = BatchSource(dataset, encoder, HISTORY)
    monkeypatch.setattr(batches, "ENCODED_BYTES", 0)
    batch_by_batch = BatchSource(dataset, encoder, HISTORY)

    for some in (chosen[:1], chosen[:40], chosen[-7:]):
        expected = at_once.batch(some, serving=False).tensors
        got = batch_by_batch.batch(some, serving=False).tensors
        assert expected.keys() == got.keys() == set(HISTORY)
        for name in HISTORY:
            np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
            assert got[name].dtype == expected[name].dtype


@pytest.mark.parametrize("encoded_bytes", [0, 10**9])
def test_a_part_of_a_batch_without_requests_is_empty(dataset, encoded_bytes, monkeypatch):
    monkeypatch.setattr(batches, "ENCODED_BYTES", encoded_bytes)
    source = BatchSource(dataset, fit_encoder(dataset, history_length=5), HISTORY)

    batch = source.batch(np.zeros(0, dtype=np.int64), serving=False)

    assert {tensor.shape for tensor in batch.tensors.values()} == {(0, 1)}
    assert not batch.valid.size


def test_a_request_without_a_history_is_one_step_of_padding(dataset, monkeypatch):
    encoder = fit_encoder(dataset, history_length=5)
    empty = np.flatnonzero(dataset.requests["start"] == dataset.requests["end"])[:2]
    assert empty.size
    monkeypatch.setattr(batches, "ENCODED_BYTES", 0)

    tensors = BatchSource(dataset, encoder, HISTORY).batch(empty, serving=False).tensors

    assert all(tensor.shape == (len(empty), 1) and not tensor.any() for tensor in tensors.values())


def test_a_batch_tells_whose_requests_it_holds(dataset):
    source = BatchSource(dataset, fit_encoder(dataset, history_length=5), HISTORY)
    chosen = dataset.requests_of("train")[[5, 0, 3]]

    user_U = source.batch(chosen, serving=False).user

    assert user_U.dtype == np.int64
    assert user_U.tolist() == dataset.requests["user"][chosen].tolist()
