"""The mixing of 64-bit words behind random numbers that depend on what they are drawn for, not on the order of draws.

SplitMix64 (Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014): its step and its
finaliser.
"""

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from contract.errors import InputError

Words: TypeAlias = NDArray[np.uint64]

STEP: Final = np.uint64(0x9E3779B97F4A7C15)
LARGEST_SEED: Final = 2**63 - 1
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)


def finalised(word: Words) -> Words:
    """Return words of which every bit depends on every bit of those given."""
    word = (word ^ (word >> np.uint64(30))) * _FIRST
    word = (word ^ (word >> np.uint64(27))) * _SECOND
    return word ^ (word >> np.uint64(31))


def refuse_bad_seed(seed: int) -> None:
    """Refuse a seed that is no word to start from.

    Raises:
        InputError: it is negative or too large.

    """
    if not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"--seed {seed}: expected a whole number from 0 to {LARGEST_SEED}")
