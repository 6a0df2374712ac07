"""How close two ways of computing the same scores must be, in log-odds.

Rounding moves a score by little, unless the model picks: where an argmax or a threshold hangs on the last digits,
another pick makes another score. Of a model that picks (`hard_routing`) few scores may be further apart, and none far.
So it is where tables were rounded to fewer bytes: how far that moved the farthest score was measured.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

PICKED_SHARE: Final = 0.01
"""Largest share of scores beyond the tolerance, where any may be."""
PICKED_FAR: Final = 0.05
"""Largest difference of any of them."""
PICKED_GAP: Final = 1e-5
"""A pick that a gap in scores smaller than this decided is one that rounding can turn."""


@dataclass(frozen=True)
class Closeness:
    """What a set of differences in log-odds is held to; NaN is beyond everything."""

    tolerance: float
    hard_routing: bool = False
    measured: float = 0.0
    """How far the farthest score was found to be, where that is known; few scores may be as far."""

    def beyond(self, difference: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Tell which differences are beyond the tolerance."""
        outside: NDArray[np.bool_] = ~(np.asarray(difference) <= self.tolerance)
        return outside

    @property
    def farthest(self) -> float:
        """The largest difference that any score may have."""
        return max(self.tolerance, self.measured, PICKED_FAR if self.hard_routing else 0.0)

    @property
    def share(self) -> float:
        """The largest share of scores that may be beyond the tolerance."""
        return PICKED_SHARE if self.hard_routing or self.farthest > self.tolerance else 0.0

    def holds(self, difference: NDArray[np.floating]) -> bool:
        """Tell whether differences of scores are small enough, taken together."""
        difference = np.asarray(difference)
        near = bool((difference <= self.farthest).all())
        return near and bool(self.beyond(difference).sum() <= self.share * difference.size)

    def __str__(self) -> str:
        if not self.share:
            return f"{self.tolerance:g}"
        return f"{self.tolerance:g}, for {PICKED_SHARE:.0%} of the scores {self.farthest:g}"
