"""What follows the fit: the best weights calibrated, and everything that belongs into a run folder."""

import pickle
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contract.errors import RunError
from training.batches import BatchSource
from training.calibration import Calibration, fit_calibration
from training.dataset import Dataset
from training.fit.job import Fitted
from training.fit.work import WorkFolder
from training.models import CtrModel
from training.run import write_encoder
from training.scoring import Progress, score_requests, split_metrics
from training.settings import TrainSettings
from training.weights import recency, row_weights


def finish(
    folder: Path, work: WorkFolder, fitted: Fitted, settings: TrainSettings, *, report: Progress
) -> dict[str, Any]:
    """Write the best weights, the encoder and the metric lines into `folder`; returns the record of the run.

    Raises:
        RunError: the weights that were put aside have been damaged since.

    """
    dataset, at = fitted.material.dataset, fitted.at
    shutil.copyfile(work.best(at.best_epoch), folder / "checkpoint.pt")
    work.close()
    shutil.copyfile(work.journal, folder / "metrics.jsonl")
    try:
        fitted.model.load_state_dict(torch.load(folder / "checkpoint.pt", weights_only=True))
    except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise RunError(f"{work.best(at.best_epoch)}: damaged; train again without --resume") from error
    calibration, metrics = calibrate(
        fitted.model,
        fitted.material.source,
        dataset,
        half_life_days=settings.calibration_half_life_days,
        report=report,
    )
    return {
        "settings": settings.model_dump(),
        "history_length": settings.history_length,
        "history_lag_s": dataset.history_lag_s,
        "dataset": str(dataset.path.resolve()),
        "schema": dataset.schema.to_json(),
        "transforms": write_encoder(folder, fitted.encoder, dataset),
        "calibration": asdict(calibration),
        "sampling": dataset.manifest["sampling"],
        "best_epoch": at.best_epoch,
        "stopped": at.stopped,
        "metrics": {"validation": metrics},
    }


def calibrate(
    model: CtrModel, source: BatchSource, dataset: Dataset, *, half_life_days: float, report: Progress
) -> tuple[Calibration, dict[str, Any]]:
    """Fit the calibration on validation; returns it with the calibrated metrics there."""
    chosen = dataset.requests_of("validation")
    rows, raw = score_requests(model, source, chosen, progress=report, label="calibration")
    clicked = np.asarray(dataset.row("clicked")[rows])
    weights = row_weights(dataset, rows) * recency(dataset, rows, half_life_days)
    calibration = fit_calibration(raw, clicked, weights)
    return calibration, split_metrics(dataset, rows, calibration.apply(raw))
