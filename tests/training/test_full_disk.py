"""A full disk is told from other errors."""

import os

import polars as pl
import pytest

from contract.errors import LongsightError
from training.full_disk import full_disk

WORDS = r"log can't be written: No space left on device; nothing was left there \(buy a disk\)"


@pytest.mark.parametrize(
    "error",
    [OSError(28, os.strerror(28)), pl.exceptions.ComputeError("underlying IO error: full (os error 28)")],
    ids=["system", "polars"],
)
def test_a_full_disk_is_one_line(tmp_path, error):
    with pytest.raises(LongsightError, match=WORDS), full_disk(tmp_path / "log", remedy="buy a disk"):
        raise error


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), full_disk(tmp_path / "log", remedy="buy a disk"):
        (tmp_path / "gone").open()
