"""How long a run will take: a running linear fit of run time against the size of the run. Pure arithmetic.

seconds = a + b U L + c U N + d U N L, for U requests of N candidates and L behaviours, padding included: a run pays
something for itself, for every behaviour and every candidate it reads, and for every pair of them. No coefficient is
negative, so that a larger run is never expected to be shorter, however little has been seen.

Least squares of the relative error, in which older runs count less and less. The sums of the normal equations are
kept, and each run moves every coefficient once to its optimum given the others (coordinate descent): microseconds.
"""

from typing import Final, TypeAlias

LEAST_RUNS: Final = 8
"""Runs after which the fit is believed."""
MEMORY_RUNS: Final = 400.0
"""Runs after which an old one counts a third."""
MOST_SURPRISE: Final = 4.0
"""A run that took more than so many times what was expected counts as so many: its thread was not running."""
UNITS: Final = (1e-5, 1e-7, 1e-6, 1e-9)
"""What the coefficients are near, in seconds: keeps the sums of one size. Before the first run, also the guess."""
LEAST_S: Final = 1e-6
FAINT: Final = 1e-12

Four: TypeAlias = tuple[float, float, float, float]


class RunTimeFit:
    """Expected run times of one graph."""

    def __init__(self) -> None:
        self.runs = 0
        self._weights = [1.0, 1.0, 1.0, 1.0]  # coefficients in units
        # a faint memory of the guess keeps the equations solvable while all runs are alike
        self._products = [[FAINT if row == column else 0.0 for column in range(4)] for row in range(4)]
        self._targets = [FAINT] * 4

    @property
    def known(self) -> bool:
        """Whether enough was seen to act upon."""
        return self.runs >= LEAST_RUNS

    def expected_s(self, candidates: float, length: float, requests: int = 1) -> float:
        """Return the seconds that a run of U x N candidates and U x L behaviours will take."""
        weights = self._weights
        rows = requests * candidates
        return (
            weights[0] * UNITS[0]
            + weights[1] * UNITS[1] * requests * length
            + weights[2] * UNITS[2] * rows
            + weights[3] * UNITS[3] * rows * length
        )

    def ran(self, seconds: float, *, candidates: float, length: float, requests: int = 1) -> None:
        """Learn from a run."""
        expected_s = self.expected_s(candidates, length, requests)
        if self.known:
            seconds = min(seconds, expected_s * MOST_SURPRISE)
        # relative error: of what is expected, since a run's own time would make its outliers light
        scale = 1.0 / max(expected_s if self.known else seconds, LEAST_S)
        rows = requests * candidates
        self._remember(
            (
                UNITS[0] * scale,
                UNITS[1] * scale * requests * length,
                UNITS[2] * scale * rows,
                UNITS[3] * scale * rows * length,
            ),
            seconds * scale,
        )
        self.runs += 1

    def _remember(self, features: Four, target: float) -> None:
        keep = 1.0 - 1.0 / min(MEMORY_RUNS, self.runs + 2.0)
        new = 1.0 - keep
        weights = self._weights
        for row, feature in enumerate(features):
            products = self._products[row]
            for column in range(4):
                products[column] = keep * products[column] + new * feature * features[column]
            self._targets[row] = keep * self._targets[row] + new * feature * target
            rest = self._targets[row] + products[row] * weights[row]
            for column in range(4):
                rest -= products[column] * weights[column]
            if products[row] > 0.0:
                weights[row] = max(0.0, rest / products[row])
