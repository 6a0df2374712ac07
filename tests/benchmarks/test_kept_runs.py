import json
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.support.kept_runs import KeptRun, judged_rows, scores, tables
from tests.support.tiny import tiny_dataset
from training.dataset import Dataset
from training.evaluate import evaluate

SETTINGS = {"history_length": 12, "epochs": 1}
POOL = KeptRun("pool", "pool-12", "mean_pool", SETTINGS)
TIN = KeptRun("tin", "tin-12", "tin", SETTINGS)


@pytest.fixture(name="dataset", scope="module")
def _dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.open(tiny_dataset(tmp_path_factory.mktemp("log")))


@pytest.fixture(name="runs", scope="module")
def _runs(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    for kept in (POOL, TIN):
        assert scores(dataset, runs, kept, 0, train_missing=True) is not None
    return runs


def test_what_is_kept_is_neither_trained_nor_scored_again(dataset, runs):
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    again = scores(dataset, runs, POOL, 0, train_missing=True)
    assert np.array_equal(again, np.load(runs / "pool-12-seed-0.npy"))
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == before


def test_scores_older_than_their_run_are_made_anew(dataset, runs):
    file = runs / "pool-12-seed-0.npy"
    true = np.load(file)
    np.save(file, true + 1)
    os.utime(file, (1, 1))
    assert np.array_equal(scores(dataset, runs, POOL, 0, train_missing=False), true)


def test_nothing_is_trained_unless_wanted(dataset, runs):
    assert scores(dataset, runs, POOL, 7, train_missing=False) is None
    assert not (runs / "pool-12-seed-7").exists()


def test_a_run_of_other_settings_is_refused(dataset, runs):
    other = KeptRun("pool", "pool-12", "mean_pool", {**SETTINGS, "learning_rate": 0.5})
    with pytest.raises(SystemExit, match=r"pool-12-seed-0 was trained with learning_rate 0\.002, now 0\.5"):
        scores(dataset, runs, other, 0, train_missing=True)


def test_differences_are_those_of_the_settings_and_paired(dataset, runs):
    scored = {kept: [scores(dataset, runs, kept, 0, train_missing=False)] for kept in (POOL, TIN)}
    rows = judged_rows(dataset, scored[POOL][0])
    found = tables(rows, scored, runs, pairs=[(TIN, POOL), (POOL, POOL)])
    gauc = {entry["setting"]: entry["gauc"] for entry in found["settings"]}
    between, same = found["differences"]
    assert between["gauc"] == gauc["tin"] - gauc["pool"]
    low, high = between["gauc_interval"]
    assert low < between["gauc"] < high
    assert same["gauc_interval"] == (0.0, 0.0)
    assert json.dumps(found)
    assert gauc["pool"] == pytest.approx(evaluate(POOL.folder(runs, 0), split="test")["gauc"])
