"""Random numbers that depend on what they are drawn for, not on the order of the drawing.

The external readers work through users in portions whose size follows from `--memory`; a stream of random
numbers would make the log depend on it. The mixing function is SplitMix64's finaliser (Steele, Lea and Flood,
Fast splittable pseudorandom number generators, OOPSLA 2014).
"""

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Words: TypeAlias = NDArray[np.uint64]

_STEP: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)


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
    word = word + _STEP
    word = (word ^ (word >> np.uint64(30))) * _FIRST
    word = (word ^ (word >> np.uint64(27))) * _SECOND
    return word ^ (word >> np.uint64(31))
