"""`longsight evaluate`: metrics and predictions of a run on a split, through the calibrated model."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contract.errors import InputError
from contract.files import atomic_file
from training.batches import BatchSource
from training.dataset import SPLITS, Dataset, SplitName
from training.metrics import sigmoid
from training.run import Run
from training.scoring import Progress, score_requests, split_metrics


def evaluate(
    run: Path, *, split: str = "test", predictions: Path | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Score a split with a run; returns the metrics of design section 4 and the same by history length.

    Args:
        run: a run folder; its dataset must be where it was trained.
        split: validation or test (train for curiosity).
        predictions: a Parquet file to write, one row per impression row of the split in the log's order.
        progress: called with (done, total, label).

    Raises:
        RunError, DatasetError: the run or its dataset can't be used.
        InputError: no such split.

    """
    if split not in SPLITS:
        raise InputError(f"--split {split}: no such split; there are {', '.join(SPLITS)}")
    name: SplitName = split  # type: ignore[assignment]
    opened = Run.load(run)
    dataset = opened.dataset()
    source = BatchSource(dataset, opened.encoder, opened.model.inputs)
    rows, raw = score_requests(opened.model, source, dataset.requests_of(name), progress=progress)
    logit = opened.calibration.apply(raw)
    if predictions is not None:
        _write_predictions(predictions, dataset, rows, logit)
    return {"split": split, "model": opened.model_name, **split_metrics(dataset, rows, logit)}


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
    with atomic_file(path) as temporary:
        frame.write_parquet(temporary)
