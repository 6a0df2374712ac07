"""Runs parts of jobs through their graphs, and learns how long that takes. Called from several threads at once."""

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.batching import padding
from service.batching.fit import RunTimeFit
from service.batching.job import Limits, Part, Run
from service.errors import InferenceError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunReport:
    """One run of the graph, for whoever counts: U requests of N candidates, and the share of padding."""

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

    def execute(self, parts: Sequence[Part]) -> list[RunReport]:
        """Run parts together; if that fails, each alone, so that a bad job fails alone."""
        try:
            return [self._execute_once(parts)]
        except Exception as error:
            if len(parts) > 1:
                logger.warning("a run of %d requests failed and is retried one by one: %s", len(parts), error)
                return [report for part in parts for report in self.execute([part])]
            logger.exception("the graph failed on a request of %d candidates", parts[0].count)
            parts[0].job.error = InferenceError("the model failed on this request")
            return []

    def _execute_once(self, parts: Sequence[Part]) -> RunReport:
        inputs = padding.join(parts)
        run, own_run = parts[0].job.run, parts[0].job.own_run
        with self._permits:
            started_s = self._clock()
            logit_UN = run(inputs) if own_run is None else own_run(inputs, parts[0].start)
            ended_s = self._clock()
        padding.split(parts, logit_UN)
        longest = most = useful = candidates = 0
        for part in parts:
            job, count = part.job, part.stop - part.start
            job.started_s = min(job.started_s or started_s, started_s)
            job.ended_s = max(job.ended_s, ended_s)
            longest, most = max(longest, job.length), max(most, count)
            useful += job.length * count
            candidates += count
        cells = len(parts) * longest * most
        if own_run is None:
            self._learn(run, ended_s - started_s, candidates=most, length=longest, requests=len(parts))
        return RunReport(len(parts), candidates, 1 - useful / cells)

    def _learn(self, run: Run, seconds: float, *, candidates: int, length: int, requests: int) -> None:
        with self._learning:
            fit = self._fits.get(run)
            if fit is not None:
                fit.ran(seconds, candidates=candidates, length=length, requests=requests)
