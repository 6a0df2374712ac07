"""What a virtual worker is given and what it tells: requests, costs, rules, and what became of each request."""

import math
from dataclasses import dataclass

from service.batching.job import Limits


@dataclass(frozen=True, slots=True)
class Request:
    """N candidates of a user with L behaviours, and when they are asked for."""

    at_s: float
    candidates: int
    length: int


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of work: of the event loop for one request, of the store, and of a run.

    Attributes:
        run: coefficients of 1, L, N, N L.
        read: parsing the body and sending the read of the history; the second number is per candidate.
        encode, respond: likewise.
        accept: reading the head of a request.
        refuse: refusing.
        store: from sending the read until its answer.
        noise: standard deviation of the logarithm of run times.

    """

    run: tuple[float, float, float, float]
    read: tuple[float, float]
    encode: tuple[float, float]
    respond: tuple[float, float]
    accept: float
    refuse: float
    store: float
    noise: float

    def run_s(self, candidates: int, length: int) -> float:
        """Return the seconds of a run."""
        a, b, c, d = self.run
        return a + b * length + c * candidates + d * candidates * length

    def unloaded_s(self, request: Request) -> float:
        """Return how long a request takes when it is alone, in one piece."""
        loop = sum(base + each * request.candidates for base, each in (self.read, self.encode, self.respond))
        return self.accept + loop + self.store + self.run_s(request.candidates, request.length)


@dataclass(frozen=True, slots=True)
class Rules:
    """How the worker decides.

    Attributes:
        limits: of one run.
        by_size: order by size and hold places free, by the fit of run time; False = first come, first served.
        deadline_s: of every request, from its arrival; infinite = none.
        refusing: turn away what is not expected to make its deadline.
        inline_s: longest run of a lone request on the event loop itself.

    """

    limits: Limits
    by_size: bool = True
    deadline_s: float = math.inf
    refusing: bool = True
    inline_s: float = 1e-3


@dataclass(slots=True)
class Outcome:
    """What became of one request: `scored`, `refused` or `late`; seconds from arrival to answer."""

    fate: str = ""
    seconds: float = 0.0
