"""Runs parts of jobs through their graphs, and learns how long that takes. Called from several threads at once."""

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.batching import padding
from service.batching.fit import RunTimeFit
from service.batching.job import Limits, Part, Run
from service.errors import InferenceError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunReport:
    """What was run together, for whoever counts: U requests of N candidates, and the share of padding."""

    requests: int
    candidates: int
    padding_ratio: float


class Runner:
    """Runs parts together, and alone if that fails.

    Args:
        limits: what one run may hold.
        permits: most runs at the same time; 0 = as many as there are callers.
        clock: seconds.

    """

    def __init__(self, limits: Limits, *, permits: int, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._fits: dict[Run, RunTimeFit] = {}
        self._learning = threading.Lock()
        self._permits = threading.Semaphore(permits) if permits else contextlib.nullcontext()

    def expected_s(self, run: Run, candidates: int, length: float) -> float:
        """Return how long N candidates and L behaviours run when nothing else does; 0 = not known yet."""
        fit = self._fits.get(run)
        if fit is None:
            fit = self._fits.setdefault(run, RunTimeFit())
        if not fit.known:
            return 0.0
        chunk = self._limits.chunk(length)
        if candidates <= chunk:
            return fit.expected_s(candidates, length)
        whole, rest = divmod(candidates, chunk)
        last_s = fit.expected_s(rest, length) if rest else 0.0
        return whole * fit.expected_s(chunk, length) + last_s

    def forget(self, run: Run) -> None:
        """Drop what was learnt about a graph that will not run again."""
        self._fits.pop(run, None)

    def execute(self, parts: Sequence[Part], *, join_up_to_s: float = math.inf) -> RunReport:
        """Run parts; what fails together is run alone, so that a bad job fails alone.

        Args:
            parts: of one graph; nobody hears of any before all have run.
            join_up_to_s: longest run, as it is expected, that is joined with others into one call of the graph; what
                takes longer is called one after another.

        """
        in_a_row = len(parts) > 1 and max(part.job.expected_s for part in parts) > join_up_to_s
        runs = [[part] for part in parts] if in_a_row else [parts]
        called = self._call(runs)
        for run in runs[called:]:
            for part in run:
                if len(parts) > 1:
                    self.execute([part])
                else:
                    part.job.error = InferenceError("the model failed on this request")
        return _report(parts, runs)

    def _call(self, runs: Sequence[Sequence[Part]]) -> int:
        """Call the graph for each run, back to back, until one fails; return how many did not."""
        first, graph = runs[0][0], _call_of(runs[0][0])
        logits: list[NDArray[np.float32]] = []
        started_s = ended_s = 0.0
        answered = 0
        try:
            inputs = [padding.join(run) for run in runs]
            with self._permits:
                started_s = self._clock()
                for tensors in inputs:
                    logits.append(graph(tensors))  # noqa: PERF401 - those before one that fails are kept
                ended_s = self._clock()
            answered = _split(runs, logits)
        except Exception as error:
            if len(runs) > 1 or len(runs[0]) > 1:
                logger.warning("a run of several requests failed and is retried one by one: %s", error)
            else:
                logger.exception("the graph failed on a request of %d candidates", first.count)
            ended_s = self._clock()
            with contextlib.suppress(Exception):  # of a graph that answers in another shape nothing is kept
                answered = _split(runs, logits)
        else:
            if first.job.own_run is None:
                self._learn(first.job.run, (ended_s - started_s) / len(runs), runs)
        for run in runs[:answered]:
            _mark(run, started_s, ended_s)
        return answered

    def _learn(self, graph: Run, seconds: float, runs: Sequence[Sequence[Part]]) -> None:
        shapes = [_shape(run) for run in runs]
        with self._learning:
            fit = self._fits.get(graph)
            if fit is not None:
                fit.ran(
                    seconds,
                    candidates=sum(most for most, _ in shapes) / len(shapes),
                    length=sum(longest for _, longest in shapes) / len(shapes),
                    requests=len(runs[0]),
                )


def _call_of(part: Part) -> Run:
    own_run = part.job.own_run
    return part.job.run if own_run is None else lambda tensors: own_run(tensors, part.start)


def _split(runs: Sequence[Sequence[Part]], logits: Sequence[NDArray[np.float32]]) -> int:
    """Write what was answered into the jobs; return of how many runs."""
    for run, logit_UN in zip(runs, logits, strict=False):
        padding.split(run, logit_UN)
    return len(logits)


def _mark(run: Sequence[Part], started_s: float, ended_s: float) -> None:
    for part in run:
        job = part.job
        job.started_s = min(job.started_s or started_s, started_s)
        job.ended_s = max(job.ended_s, ended_s)


def _shape(run: Sequence[Part]) -> tuple[int, int]:
    """Return N and L of a run."""
    return max(part.count for part in run), max(part.job.length for part in run)


def _report(parts: Sequence[Part], runs: Sequence[Sequence[Part]]) -> RunReport:
    useful = sum(part.job.length * part.count for part in parts)
    cells = 0
    for run in runs:
        most, longest = _shape(run)
        cells += len(run) * most * longest
    return RunReport(len(parts), sum(part.count for part in parts), 1 - useful / cells)
