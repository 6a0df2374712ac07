"""How far two scorings of the same candidates are apart, in log-odds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.closeness import Closeness


@dataclass
class Differences:
    """The differences of all requests compared so far.

    Attributes:
        closeness: what they are held to, all together.
        expected, found: what the two scorings are called in the report.

    """

    closeness: Closeness
    expected: str
    found: str
    worst: dict[str, Any] = field(default_factory=dict)
    _pieces: list[NDArray[np.float64]] = field(default_factory=list)
    _largest: float = -1.0

    def add(
        self,
        name: str,
        ad_ids: Sequence[object],
        *,
        expected_N: NDArray[np.float64],
        found_N: NDArray[np.float64],
    ) -> None:
        """Add one request's log-odds."""
        difference_N = differences(found_N, expected_N)
        self._pieces.append(difference_N)
        at = int(difference_N.argmax())  # of NaN, if there is one
        if not (math.isnan(self._largest) or difference_N[at] <= self._largest):
            self._largest = float(difference_N[at])
            self.worst = {
                "request": name,
                "ad_id": ad_ids[at],
                self.expected: float(expected_N[at]),
                self.found: float(found_N[at]),
            }

    @property
    def compared(self) -> int:
        """How many candidates were compared."""
        return sum(len(piece) for piece in self._pieces)

    def report(self) -> dict[str, Any]:
        """Sum up; `ok` means that some were compared and that they are as close as they must be."""
        difference = np.concatenate(self._pieces) if self._pieces else np.empty(0)
        some = bool(difference.size)
        return {
            "difference": {
                "max": float(difference.max()) if some else math.nan,
                "p99": float(np.quantile(difference, 0.99)) if some else math.nan,
                "mean": float(difference.mean()) if some else math.nan,
            },
            "worst": self.worst,
            "tolerance": self.closeness.tolerance,
            "hard_routing": self.closeness.hard_routing,
            "farthest": self.closeness.farthest,
            "beyond_tolerance": int(self.closeness.beyond(difference).sum()),
            "ok": some and self.closeness.holds(difference),
        }


def log_odds(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(p / (1 - p)); 0 and 1 give -inf and inf."""
    with np.errstate(divide="ignore"):
        return np.log(probability) - np.log1p(-probability)


def differences(served: NDArray[np.float64], offline: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return |served - offline|; where a probability is 1 within float64, the offline value rounds likewise."""
    with np.errstate(over="ignore", invalid="ignore"):  # exp(1000); inf - inf, which is replaced
        beyond = np.isinf(served) & (log_odds(1 / (1 + np.exp(-offline))) == served)
        return np.where(beyond, 0.0, np.abs(served - offline))


def words(report: dict[str, Any]) -> str:
    """Return one line about a report that is not `ok`."""
    closeness = Closeness(
        report["tolerance"], hard_routing=report["hard_routing"], measured=report["farthest"]
    )
    return (
        f"log-odds differ by up to {report['difference']['max']:.3g} (allowed {closeness}), "
        f"{report['beyond_tolerance']} of {report['compared']} by more than {report['tolerance']:g}, "
        f"worst: {report['worst']}"
    )
