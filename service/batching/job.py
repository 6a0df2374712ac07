"""What is scored, a piece of it, and how much may be scored at once: plain data."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Tensors: TypeAlias = Mapping[str, NDArray[Any]]
Run: TypeAlias = Callable[[Tensors], NDArray[np.float32]]
"""A graph: tensors of U requests in, `logit_UN` out. Jobs of equal runs may share a call."""

OwnRun: TypeAlias = Callable[[Tensors, int], NDArray[np.float32]]
"""Tensors of one request and its first candidate among them in, `logit_UN` out."""


@dataclass(slots=True, eq=False)
class Job:
    """The candidates of one request on their way through the graph.

    Attributes:
        run: the graph that scores it.
        inputs: one request's tensors: `history_*` [1, L], `user_*` [1], `ad_*` and `context_*` [1, N].
        candidates: N.
        length: L.
        submitted_s, started_s, ended_s: readings of the clock; the latter two are 0 until it happened.
        logit_N: the answer, filled chunk by chunk.
        deadline_s: reading of the clock after which its scoring need not begin; infinite = none.
        expected_s: how long it will run when nothing else does.
        own_run: what runs it in the graph's place; such a job shares no run.
        background: nobody waits for it; it runs while nothing else is there to run.
        error: why there is no answer.
        abandoned: its caller left.
        taken, done: candidates that were given to a run, and that came back.
        waiter: for whoever runs it.

    """

    run: Run
    inputs: Tensors
    candidates: int
    length: int
    submitted_s: float
    logit_N: NDArray[np.float32]  # noqa: N815 - shape suffix
    deadline_s: float = math.inf
    expected_s: float = 0.0
    own_run: OwnRun | None = None
    background: bool = False
    started_s: float = 0.0
    ended_s: float = 0.0
    error: Exception | None = None
    abandoned: bool = False
    taken: int = 0
    done: int = 0
    waiter: Any = None


@dataclass(frozen=True, slots=True)
class Part:
    """Candidates `start` to `stop` of a job, in one run."""

    job: Job
    start: int
    stop: int

    @property
    def count(self) -> int:
        """Candidates in this part."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may hold.

    Attributes:
        max_requests: U.
        max_cells: requests x candidates x history length, padding included.
        chunk_candidates: most candidates of one request.
        share_s: longest run, as it is expected, that several requests share: what they save is a part of each run
            that does not grow with it. Infinite = any, also one whose time is not known.

    """

    max_requests: int
    max_cells: int
    chunk_candidates: int
    share_s: float = math.inf

    def chunk(self, length: float) -> int:
        """Return the most candidates of a request of L behaviours in one run: at least 1."""
        return max(1, min(self.chunk_candidates, int(self.max_cells // max(length, 1))))


@dataclass(slots=True, eq=False)
class Taken:
    """The next run, and what else came to light when it was looked for.

    Attributes:
        parts: the run; nothing if there is none now.
        late: jobs whose deadline passed before they were begun.
        again_s: without parts: when there may be one although nothing changes meanwhile; infinite = never.
        long: the run is one of the long ones.

    """

    parts: list[Part] = field(default_factory=list)
    late: list[Job] = field(default_factory=list)
    again_s: float = math.inf
    long: bool = False
