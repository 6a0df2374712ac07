"""Metrics of Prometheus whose events wait to be counted: an event costs an addition in memory.

prometheus_client takes a lock for each, and where there are several workers writes to a file, a few of it per
histogram: half of what it took to count a request. Each class is for one thread; `count` makes what waits known to
other processes, and being shown does so too.
"""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.samples import Sample

MOST_WAITING: Final = 512
"""Observations that wait to be counted: what a thousand requests a second bring within the half of a second."""


class ArrayHistogram(Histogram):
    """Observations are counted many at once, at the latest when `MOST_WAITING` wait."""

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


class TallyCounter(Counter):
    """Increments add up until they are counted."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - prometheus_client's own
        self._waiting = 0.0
        super().__init__(*arguments, **options)

    def inc(self, amount: float = 1, exemplar: dict[str, str] | None = None) -> None:
        """Add to the counter; exemplars are not kept."""
        del exemplar
        self._waiting += amount

    def count(self) -> None:
        """Count what waits."""
        if self._waiting:
            waiting, self._waiting = self._waiting, 0.0
            super().inc(waiting)

    def _child_samples(self) -> Iterable[Sample]:
        self.count()
        return super()._child_samples()


class TallyGauge(Gauge):
    """Only the last value that was set is kept."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - prometheus_client's own
        self._last: float | None = None
        super().__init__(*arguments, **options)

    def set(self, value: float) -> None:
        """Set the gauge."""
        self._last = value

    def count(self) -> None:
        """Make the last value known."""
        if self._last is not None:
            last, self._last = self._last, None
            super().set(last)

    def _child_samples(self) -> Iterable[Sample]:
        self.count()
        return super()._child_samples()
