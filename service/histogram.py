"""A histogram of Prometheus that counts many values at once: per look at it, not per value."""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Histogram
from prometheus_client.samples import Sample

MOST_WAITING: Final = 512
"""Observations that wait to be counted: what a thousand requests a second bring within the half of a second."""


class ArrayHistogram(Histogram):
    """Observations wait until the histogram is shown, `count` is called, or `MOST_WAITING` of them wait.

    To be used by one thread. An observation costs the append to a list, where prometheus_client's takes two locks, and
    two writes to a file where there are several workers.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - prometheus_client's own
        self._values: list[float] = []
        self._arrays: list[NDArray[np.floating[Any]]] = []
        super().__init__(*arguments, **options)

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Observe one value; exemplars are not kept."""
        del exemplar
        self._values.append(amount)
        if len(self._values) >= MOST_WAITING:
            self.count()

    def observe_many(self, values: NDArray[np.floating[Any]]) -> None:
        """Observe each of the values, which nobody changes any more."""
        self._arrays.append(values)
        if len(self._arrays) >= MOST_WAITING:
            self.count()

    def count(self) -> None:
        """Count what waits."""
        if not (self._values or self._arrays):
            return
        values = np.concatenate([np.asarray(self._values, dtype=np.float64), *self._arrays])
        self._values.clear()
        self._arrays.clear()
        counts = np.bincount(np.searchsorted(self._upper_bounds, values, side="left"))
        for index in np.flatnonzero(counts):
            self._buckets[index].inc(float(counts[index]))
        self._sum.inc(float(values.sum()))

    def _child_samples(self) -> Iterable[Sample]:
        self.count()
        return super()._child_samples()
