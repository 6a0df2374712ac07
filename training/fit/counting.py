"""Fits the model that only counts clicks."""

import math
import time

import numpy as np

from training.fit.position import Position
from training.fit.trainer import Material, epoch_line
from training.fit.work import WorkFolder
from training.models.popularity import Popularity
from training.scoring import Progress, score_requests, split_metrics
from training.weights import row_weights


def count_clicks(
    model: Popularity, material: Material, work: WorkFolder | None, *, report: Progress
) -> Position:
    """Count the clicks of training, judge on validation, keep the counts; returns the position at the end."""
    started = time.perf_counter()
    dataset = material.dataset
    rows = dataset.rows_of(dataset.requests_of("train"))
    clicked = np.asarray(dataset.row("clicked"))[rows]
    model.fit_counts(material.source.ad_rows(model.inputs[0], rows), clicked, row_weights(dataset, rows))
    trained = time.perf_counter() - started
    scored = score_requests(
        model, material.source, dataset.requests_of("validation"), progress=report, label="validation"
    )
    metrics = split_metrics(dataset, *scored)
    at = Position({}, stopped="last epoch", seconds=trained)
    at.is_best(metrics)
    if work is None:
        return at
    work.save_best(at.epoch, model.state_dict())
    seconds = time.perf_counter() - started
    work.write_line(epoch_line(at.epoch, math.nan, metrics, train_seconds=trained, seconds=seconds))
    return at
