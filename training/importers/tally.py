"""Counts how often each of many numbers occurs in a stream, in memory that grows with the distinct ones alone."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

FEWEST: Final = 1 << 20


class Tally:
    """Numbers (u8) and their counts; merged whenever the unmerged ones outgrow the merged."""

    def __init__(self) -> None:
        self._numbers = [np.empty(0, np.uint64)]
        self._counts = [np.empty(0, np.int64)]
        self._waiting = 0

    def add(self, numbers: NDArray[np.uint64]) -> None:
        """Count every number of an array once more."""
        distinct, counts = np.unique(numbers, return_counts=True)
        self._numbers.append(distinct)
        self._counts.append(counts.astype(np.int64))
        self._waiting += len(distinct)
        if self._waiting > max(FEWEST, len(self._numbers[0]) // 2):
            self._merge()

    def result(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Return the distinct numbers, ascending, and how often each was added."""
        self._merge()
        return self._numbers[0], self._counts[0]

    def _merge(self) -> None:
        numbers, counts = np.concatenate(self._numbers), np.concatenate(self._counts)
        order = np.argsort(numbers, kind="stable")
        numbers, counts = numbers[order], counts[order]
        first = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1])) if len(numbers) else order
        self._numbers = [numbers[first]]
        self._counts = [np.add.reduceat(counts, first) if len(first) else counts]
        self._waiting = 0
