"""`longsight evaluate`: metrics and predictions of a run on a split, through the calibrated model."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from training.bootstrap import metric_intervals
from training.dataset import Dataset
from training.distill import kept_student
from training.full_disk import file_on_a_disk
from training.metrics import sigmoid
from training.run import Run
from training.scored import score_split, split_name
from training.scoring import Progress, split_metrics


def evaluate(
    run: Path,
    *,
    split: str = "test",
    predictions: Path | None = None,
    intervals: bool = False,
    student: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score a split with a run; returns the metrics of design section 4 and the same by history length.

    Args:
        run: a run folder; its dataset must be where it was trained.
        split: validation or test (train for curiosity).
        predictions: a Parquet file to write, one row per impression row of the split in the log's order.
        student: judge the run with the student that is kept in its folder in place of its sampler: what a bundle of
            `export --diffusion distilled` serves.
        intervals: also return `intervals`, the 95 % interval [low, high] of each metric, or None.
        progress: called with (done, total, label).

    Raises:
        RunError, DatasetError: the run or its dataset can't be used, the split is empty, or no student is kept.
        InputError: no such split, or a model that generates no interests has no student.
        LongsightError: no room for the predictions.

    """
    name = split_name(split)
    opened = kept_student(Run.load(run)) if student else Run.load(run)
    dataset = opened.dataset()
    scored = score_split(opened, dataset, dataset.requests_of(name), progress=progress)
    if predictions is not None:
        _write_predictions(predictions, dataset, scored.row, scored.logit)
    result: dict[str, Any] = {"split": split, "model": opened.model_name}
    result |= split_metrics(dataset, scored.row, scored.logit)
    if intervals:
        found = metric_intervals(scored.rows, scored.logit)
        result["intervals"] = {
            metric: None if math.isnan(each.low) else [each.low, each.high] for metric, each in found.items()
        }
    return result


def probability_of(logit: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the float64 sigmoid of float32 log-odds: what is served and what is written."""
    return sigmoid(logit.astype(np.float64))


def _write_predictions(
    path: Path, dataset: Dataset, rows: NDArray[np.int64], logit: NDArray[np.float32]
) -> None:
    log_row = np.asarray(dataset.row("log_row")[rows])
    order = np.argsort(log_row)
    frame = dataset.impressions()[log_row[order]].with_columns(
        pl.Series("probability", probability_of(logit[order])), pl.Series("logit", logit[order])
    )
    with file_on_a_disk(path) as temporary:
        frame.write_parquet(temporary)
