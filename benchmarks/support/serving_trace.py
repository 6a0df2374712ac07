"""Traffic of all sizes with random moments, and what two ideal servers would make of it."""

import heapq
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.score_traffic import Asked, ads_of
from benchmarks.support.serving_stand import Stand

CANDIDATES: Final = (10, 500)
"""Least and most; log-uniform, as the lengths of the histories."""
DIFFERENT: Final = 1000
"""Different requests; a trace draws from them."""


@dataclass(frozen=True)
class Trace:
    """Moments, and which of the different requests is due at each."""

    due_s: NDArray[np.float64]
    index: NDArray[np.int64]


def mixed_requests(stand: Stand, *, least: int = CANDIDATES[0], seed: int = 11) -> list[Asked]:
    """Return requests of users with histories of 20 to 5,000 events, for `least` to 500 candidates."""
    rng = np.random.default_rng(seed)
    lengths = stand.sizes.mixed
    counts = np.exp(rng.uniform(np.log(least), np.log(CANDIDATES[1]), DIFFERENT)).round().astype(int)
    users = rng.integers(0, lengths, DIFFERENT)
    return [
        Asked(f"m{user}", ads_of(rng, count))
        for user, count in zip(users.tolist(), counts.tolist(), strict=True)
    ]


def poisson(rate: float, *, seconds: float, seed: int) -> Trace:
    """Return a Poisson trace of so many requests per second."""
    rng = np.random.default_rng(seed)
    count = max(1, round(rate * seconds))
    due_s = np.cumsum(rng.exponential(1 / rate, count))
    return Trace(due_s, rng.integers(0, DIFFERENT, count))


def ideal_response_s(
    due_s: NDArray[np.float64], service_s: NDArray[np.float64], *, servers: int = 2
) -> NDArray[np.float64]:
    """Return from moment to answer `[requests]` when ideal servers take requests in the order of their moments."""
    free_s = [0.0] * servers
    response_s = np.empty(len(due_s))
    for index, (due, service) in enumerate(zip(due_s.tolist(), service_s.tolist(), strict=True)):
        ended = max(due, heapq.heappop(free_s)) + service
        heapq.heappush(free_s, ended)
        response_s[index] = ended - due
    return response_s
