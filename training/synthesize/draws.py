"""Random numbers by name: every draw is a hash of (seed, purpose, unit, index), so no draw depends on another.

A user's numbers are the same whoever is drawn before, however many users there are and however they are chunked.
The hash is the finaliser of SplitMix64 (`training.splitmix`), applied once per part of the name.
"""

from enum import IntEnum, auto

import numpy as np
from numpy.typing import NDArray

from training.splitmix import STEP, finalised

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class Purpose(IntEnum):
    """What a number is drawn for. The order is part of the seed's meaning: new purposes go to the end."""

    AD_CATEGORY = auto()
    AD_SUBCATEGORY = auto()
    AD_QUALITY = auto()
    AD_RANK = auto()
    REGION = auto()
    EVENTS = auto()
    INTERESTS = auto()
    INTEREST_CATEGORY = auto()
    INTEREST_SUBCATEGORY = auto()
    INTEREST_WEIGHT = auto()
    INTEREST_PERIOD = auto()
    INTEREST_PHASE = auto()
    SESSION_START = auto()
    SESSION_INTEREST = auto()
    EVENT_SESSION = auto()
    EVENT_OFFSET = auto()
    EVENT_NOISE = auto()
    EVENT_CATEGORY = auto()
    EVENT_FAVOURITE = auto()
    EVENT_SUBCATEGORY = auto()
    EVENT_PURCHASE = auto()
    REQUEST_TIME = auto()
    CANDIDATE_KIND = auto()
    CANDIDATE_INTEREST = auto()
    CANDIDATE_AD = auto()
    CLICK = auto()


class Draws:
    """The numbers of one seed."""

    def __init__(self, seed: int) -> None:
        self._seed = np.array([seed], dtype=np.uint64)

    def uniform(self, purpose: Purpose, unit: Integers, index: Integers | int = 0) -> Floats:
        """Return numbers in the open interval (0, 1), one for each (unit, index)."""
        mixed = finalised(self._seed + STEP)
        for part in (np.array([purpose]), unit, np.atleast_1d(index)):
            mixed = finalised(mixed + part.astype(np.uint64) * STEP)
        drawn: Floats = ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        return drawn

    def normal(self, purpose: Purpose, unit: Integers, index: Integers | int = 0) -> Floats:
        """Return standard normal numbers, one for each (unit, index), by Box and Muller's transform."""
        at = np.asarray(index, dtype=np.int64) * 2
        radius = np.sqrt(-2 * np.log(self.uniform(purpose, unit, at)))
        drawn: Floats = radius * np.cos(2 * np.pi * self.uniform(purpose, unit, at + 1))
        return drawn


def choose(cumulative: Floats, uniform: Floats) -> Integers:
    """Return the index that each uniform number falls on, in proportion to weights given as running totals."""
    found = np.searchsorted(cumulative, uniform * cumulative[-1], side="right")
    chosen: Integers = np.minimum(found, len(cumulative) - 1).astype(np.int64)
    return chosen
