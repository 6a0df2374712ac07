"""Random numbers that depend on what they are drawn for, not on the order of the drawing.

The external readers work through users in portions whose size follows from `--memory`; a stream of random
numbers would make the log depend on it.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.splitmix import STEP, Words, finalised


def mixed(seed: int, *parts: ArrayLike) -> Words:
    """Return one well-mixed word for every tuple of `parts` (arrays of whole numbers >= 0 that broadcast)."""
    state = np.array([seed], dtype=np.uint64)
    for part in parts:
        state = _mix(state ^ _mix(np.atleast_1d(part).astype(np.uint64)))
    return state


def uniform(seed: int, *parts: ArrayLike) -> NDArray[np.float64]:
    """Return numbers in [0, 1) for every tuple of `parts`; see `mixed`."""
    return (mixed(seed, *parts) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(word: Words) -> Words:
    return finalised(word + STEP)
