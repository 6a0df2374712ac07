"""Offline scores of a split, and the metrics made of them."""

import math
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from training.batches import Batch, BatchSource, scoring_order
from training.dataset import Dataset
from training.metrics import evaluate_metrics
from training.models import CtrModel
from training.weights import row_weights

Progress = Callable[[int, int | None, str], None]

LENGTH_BINS: Final = ((0, 50), (50, 200), (200, 1000), (1000, None))
_REQUESTS: Final = 64


def inputs_of(batch: Batch) -> dict[str, torch.Tensor]:
    """Return the tensors of a batch for a model."""
    return {name: torch.from_numpy(values) for name, values in batch.tensors.items()}


def score_batches(
    score: Callable[[Batch], NDArray[np.float32]],
    source: BatchSource,
    chosen: NDArray[np.int64],
    *,
    requests: int,
    progress: Progress | None = None,
    label: str = "scoring",
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return impression rows and what `score` gives them, ascending by row.

    Args:
        score: returns `logit_UN` of a batch.
        source: cuts the batches, as they are served.
        chosen: requests.
        requests: most of a batch.
        progress: called with (done, total, label).
        label: what to report.

    """
    rows: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    logits: list[NDArray[np.float32]] = [np.zeros(0, dtype=np.float32)]
    done = 0
    for part in scoring_order(source, chosen, requests=requests):
        batch = source.batch(part, serving=True)
        logit_UN = score(batch)
        rows.append(batch.row[batch.valid])
        logits.append(logit_UN[batch.valid])
        done += len(part)
        if progress is not None:
            progress(done, len(chosen), label)
    row, logit = np.concatenate(rows), np.concatenate(logits)
    order = np.argsort(row)
    return row[order], logit[order]


def score_requests(
    model: CtrModel,
    source: BatchSource,
    chosen: NDArray[np.int64],
    *,
    progress: Progress | None = None,
    label: str = "scoring",
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return impression rows and their uncalibrated logits of the chosen requests, ascending by row.

    Scores where the model's weights are.
    """
    device = next(iter(model.state_dict().values())).device

    def score(batch: Batch) -> NDArray[np.float32]:
        logit_UN: NDArray[np.float32] = (
            model({name: tensor.to(device) for name, tensor in inputs_of(batch).items()}).cpu().numpy()
        )
        return logit_UN

    was_training = model.training
    model.eval()
    with torch.inference_mode():
        scored = score_batches(score, source, chosen, requests=_REQUESTS, progress=progress, label=label)
    model.train(was_training)
    return scored


def split_metrics(dataset: Dataset, rows: NDArray[np.int64], logit: NDArray[np.float32]) -> dict[str, Any]:
    """Return the metrics of scored rows (ascending): of all, and by length of the user's history.

    A metric that is undefined there (one class, no user with both) is None.
    """
    request = dataset.request_of(rows)
    requests = dataset.requests[request]
    clicked = np.asarray(dataset.row("clicked")[rows])
    weight = row_weights(dataset, rows)

    def measure(chosen: NDArray[np.bool_]) -> dict[str, Any]:
        metrics = evaluate_metrics(requests["user"][chosen], clicked[chosen], logit[chosen], weight[chosen])
        known = {name: None if math.isnan(value) else value for name, value in metrics.items()}
        return {**known, "requests": int(np.unique(request[chosen]).size)}

    by_length = {name: measure(chosen) for name, chosen in length_ranges(requests["end"] - requests["start"])}
    return {**measure(np.ones(len(rows), dtype=bool)), "by_length": by_length}


def length_ranges(length: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield name and rows of every range of history lengths that occurs among `[R]`."""
    for low, high in LENGTH_BINS:
        chosen = (length >= low) & (length < (high or np.inf))
        if chosen.any():
            yield (f"{low}-{high - 1}" if high else f"{low}+"), chosen
