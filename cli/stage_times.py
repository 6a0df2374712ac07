"""Where the time of captured requests went, then and now: milliseconds by stage."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
SLOWEST: Final = 5
TOTAL: Final = "total"


@dataclass(frozen=True, slots=True)
class Times:
    """One request: milliseconds by stage, as it was captured and as it was sent again."""

    request: str
    why: str
    captured: dict[str, float]
    replayed: dict[str, float]


@dataclass
class StageTimes:
    """The times of all requests that were scored again."""

    _times: list[Times] = field(default_factory=list)
    _round_trip_ms: list[float] = field(default_factory=list)

    def add(self, times: Times, *, round_trip_ms: float) -> None:
        """Add one request; the round trip is what its sender waited."""
        self._times.append(times)
        self._round_trip_ms.append(round_trip_ms)

    def report(self) -> dict[str, Any]:
        """Return quantiles by stage, those of all stages together, and the slowest requests one by one."""
        stages = list(dict.fromkeys(stage for times in self._times for stage in times.captured))
        return {
            "milliseconds": {
                stage: {
                    "captured": quantiles([times.captured.get(stage, 0.0) for times in self._times]),
                    "replayed": quantiles([times.replayed.get(stage, 0.0) for times in self._times]),
                }
                for stage in stages
            }
            | {
                TOTAL: {
                    "captured": quantiles([sum(times.captured.values()) for times in self._times]),
                    "replayed": quantiles([sum(times.replayed.values()) for times in self._times]),
                }
            },
            "round_trip": quantiles(self._round_trip_ms),
            "slowest": [_in_short(times) for times in self._slowest()],
        }

    def _slowest(self) -> list[Times]:
        return sorted(self._times, key=lambda times: sum(times.captured.values()), reverse=True)[:SLOWEST]


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Return median, 95th and 99th percentile; not-a-number of nothing."""
    found = np.quantile(values, list(QUANTILES.values())) if values else np.full(len(QUANTILES), np.nan)
    return dict(zip(QUANTILES, found.tolist(), strict=True))


def _in_short(times: Times) -> dict[str, Any]:
    """Say how long a request took, and where most of that went."""
    longest, _ = max(times.captured.items(), key=operator.itemgetter(1), default=("", 0.0))
    return {
        "request": times.request,
        "why": times.why,
        "captured": round(sum(times.captured.values()), 3),
        "replayed": round(sum(times.replayed.values()), 3),
        "longest": longest,
        "of it captured": times.captured.get(longest, 0.0),
        "of it replayed": times.replayed.get(longest, 0.0),
    }
