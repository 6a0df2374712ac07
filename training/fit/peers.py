"""The processes that train one model together, seen from one of them; here the case of a single one."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Peers(ABC):
    """What a step needs of the other processes. Every process calls the same methods in the same order."""

    rank: int
    """0 is the one that writes."""
    size: int
    """Number of processes."""

    def share(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this process's part of a list: every `size`-th entry, so that all have alike lengths."""
        return chosen[self.rank :: self.size]

    @abstractmethod
    def add_up(self, parts: list[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""

    @abstractmethod
    def merge_rows(self, rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distinct rows of all processes and the sums of their values.

        Args:
            rows: `[k]` int64, distinct, the first 0.
            values: `[k, D]`.

        """

    @abstractmethod
    def any(self, flag: bool) -> bool:  # noqa: FBT001 - reads as the builtin
        """Tell whether the flag is set in any process."""

    @abstractmethod
    def collect(self, values: NDArray[np.float32], sizes: list[int]) -> list[NDArray[np.float32]]:
        """Return every process's values, by rank; `sizes` tells how many each has."""


class Alone(Peers):
    """One process: nothing to exchange."""

    rank = 0
    size = 1

    def add_up(self, parts: list[Tensor]) -> None:
        """Leave the sums as they are."""

    def merge_rows(self, rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return what was given."""
        return rows, values

    def any(self, flag: bool) -> bool:  # noqa: FBT001
        """Return the flag."""
        return flag

    def collect(self, values: NDArray[np.float32], sizes: list[int]) -> list[NDArray[np.float32]]:
        """Return the values."""
        del sizes
        return [values]
