"""A split through a run's calibrated model: the rows that everything that judges works on.

R impression rows, ascending (request-major).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from contract.errors import InputError
from training.batches import BatchSource
from training.bootstrap import Rows
from training.dataset import SPLITS, Dataset, SplitName
from training.run import Run
from training.scoring import Progress, length_ranges, score_requests
from training.weights import row_weights


@dataclass(frozen=True)
class ScoredSplit:
    """The rows of a split, or of some of its requests, with a run's log-odds."""

    dataset: Dataset
    row: NDArray[np.int64]
    """Impression rows of the dataset."""
    logit: NDArray[np.float32]
    """Calibrated log-odds."""

    @cached_property
    def request(self) -> NDArray[np.int64]:
        """The request of each row."""
        return self.dataset.request_of(self.row)

    @cached_property
    def user(self) -> NDArray[np.int64]:
        """The user of each row."""
        user: NDArray[np.int64] = self.dataset.requests["user"][self.request]
        return user

    @cached_property
    def length(self) -> NDArray[np.int64]:
        """Events before the request of each row, all there were."""
        requests = self.dataset.requests[self.request]
        length: NDArray[np.int64] = requests["end"] - requests["start"]
        return length

    @cached_property
    def rows(self) -> Rows:
        """What the bootstrap resamples."""
        clicked = np.asarray(self.dataset.row("clicked")[self.row], dtype=np.float64)
        return Rows(self.user, clicked, row_weights(self.dataset, self.row))

    def by_length(self) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Yield name and rows of every range of history lengths that occurs."""
        return length_ranges(self.length)


def split_name(text: str) -> SplitName:
    """Return the name of a split.

    Raises:
        InputError: there is no such split.

    """
    if text not in SPLITS:
        raise InputError(f"--split {text}: no such split; there are {', '.join(SPLITS)}")
    name: SplitName = text  # type: ignore[assignment]
    return name


def score_split(
    run: Run, dataset: Dataset, chosen: NDArray[np.int64], *, progress: Progress | None = None
) -> ScoredSplit:
    """Score requests with a run through its calibration.

    Args:
        run: the run.
        dataset: its dataset, or one of the same fingerprint.
        chosen: requests.
        progress: called with (done, total, label).

    """
    source = BatchSource(dataset, run.encoder, run.model.inputs)
    label = f"scoring with {run.path.name}"
    rows, raw = score_requests(run.model, source, chosen, progress=progress, label=label)
    return ScoredSplit(dataset, rows, run.calibration.apply(raw))
