"""How much each impression row counts: against sampling, in the loss, by age."""

import numpy as np
from numpy.typing import NDArray

from training.dataset import Dataset


def row_weights(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return 1 / sampling rate of impression rows; 1 where the rate is unknown."""
    rate = np.asarray(dataset.row("rate")[rows], dtype=np.float64)
    return np.where(np.isnan(rate), 1.0, 1.0 / rate)


def loss_weights(dataset: Dataset) -> NDArray[np.float32] | None:
    """Return a weight per impression row, mean 1 over training, or None where the loss is unweighted.

    Unweighted if the rates are unknown, or if every clicked row was kept and the others with one constant
    rate: that shifts the log-odds by a constant, which calibration takes back.
    """
    sampling = dataset.manifest["sampling"]
    if not sampling["known"] or (sampling["clicked"] == 1.0 and sampling["not_clicked"] is not None):
        return None
    weights = row_weights(dataset, np.arange(len(dataset.row("rate")))).astype(np.float32)
    return weights / np.float32(weights[dataset.rows_of(dataset.requests_of("train"))].mean())


def recency(dataset: Dataset, rows: NDArray[np.int64], half_life_days: float) -> NDArray[np.float64]:
    """Return 2^(-age / half-life) of impression rows; age counts from the newest of them.

    Click rates drift, and the newest are nearest to what will be served.
    """
    if not half_life_days:
        return np.ones(len(rows))
    time = dataset.requests["timestamp"][dataset.request_of(rows)]
    age_days = (time.max() - time) / 86_400
    weights: NDArray[np.float64] = np.exp2(-age_days / half_life_days)
    return weights
