"""A student against its teacher, or any other way to score against the first, in figures."""

import math

import numpy as np
import pytest

from tests.support.tiny import tiny_dataset
from training.dataset import Dataset
from training.verdict import judge, judged_split

NAMES = ("teacher", "student")


@pytest.fixture(scope="module", name="dataset")
def _dataset(tmp_path_factory) -> Dataset:
    return Dataset.open(tiny_dataset(tmp_path_factory.mktemp("judge")))


@pytest.fixture(name="rows")
def _rows(dataset):
    return dataset.rows_of(dataset.requests_of("train"))


def logits(rows, seed):
    return np.random.default_rng(seed).normal(size=len(rows)).astype(np.float32)


def test_a_student_that_says_what_its_teacher_says_is_close(dataset, rows):
    report = judge(dataset, rows, first=logits(rows, 0), other=logits(rows, 0), names=NAMES)
    assert report["rows"] == len(rows)
    assert report["gauc_difference"] == report["gauc_low"] == report["gauc_high"] == 0
    assert report["log_odds_difference"] == {"mean": 0, "p99": 0, "max": 0}
    assert report["teacher"] == report["student"]
    assert report["close"] is True


def test_a_student_that_ranks_worse_is_not_close(dataset, rows):
    clicked = np.asarray(dataset.row("clicked")[rows], dtype=np.float32)
    report = judge(dataset, rows, first=logits(rows, 0) + 2 * clicked, other=logits(rows, 0), names=NAMES)
    assert report["gauc_high"] < -0.1
    assert report["gauc_difference"] == pytest.approx(report["student"]["gauc"] - report["teacher"]["gauc"])
    assert report["close"] is False


def test_scores_that_are_all_higher_move_pcoc_and_no_rank(dataset, rows):
    report = judge(dataset, rows, first=logits(rows, 0), other=logits(rows, 0) + 1, names=NAMES)
    assert report["gauc_difference"] == 0
    assert report["pcoc_difference"] > 0.1
    assert report["pcoc_difference"] == pytest.approx(report["student"]["pcoc"] - report["teacher"]["pcoc"])
    assert report["close"] is True


def test_the_test_split_judges_if_there_is_one(dataset):
    assert judged_split(dataset) == "test"


def test_differences_of_log_odds_are_absolute(dataset, rows):
    off = np.zeros(len(rows), dtype=np.float32)
    off[0], off[1:101] = -3.0, 0.5
    report = judge(dataset, rows, first=logits(rows, 0), other=logits(rows, 0) + off, names=NAMES)
    found = report["log_odds_difference"]
    assert found["max"] == pytest.approx(3.0, abs=1e-5)
    assert found["mean"] == pytest.approx(np.abs(off).mean(), abs=1e-5)
    assert found["p99"] == pytest.approx(0.5, abs=1e-5)


def test_one_user_has_no_interval_and_is_not_close(dataset):
    one = dataset.rows_of(dataset.requests_of("test")[:1])
    report = judge(dataset, one, first=logits(one, 0), other=logits(one, 0), names=NAMES)
    assert report["gauc_low"] is None
    assert report["close"] is False
    assert report["users"] == 1
    assert report["gauc_difference"] is None or math.isfinite(report["gauc_difference"])
