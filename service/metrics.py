"""Every metric of the service, declared once: base units, closed label sets, explained in `docs/operations.md`.

With several workers prometheus_client keeps the values in files under `PROMETHEUS_MULTIPROC_DIR`, which has to be
set before this module is imported; `exposition` then adds up all workers.
"""

import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from service.tally import ArrayHistogram, TallyCounter, TallyGauge

Tally = TypeVar("Tally", ArrayHistogram, TallyCounter)

STAGES: Final = ("parse", "history", "encode", "queue", "infer", "respond")
SHED_REASONS: Final = ("queue_full", "out_of_reach", "loop_behind", "deadline", "caller_left")
SHADOW_RESULTS: Final = ("scored", "dropped", "failed")
HISTORY_STATUSES: Final = ("hit", "empty", "timeout", "unavailable")
CAPTURED: Final = ("sample", "slow", "over_limit", "queue_full", "failed")
MODEL_ROUTES: Final = ("/models", "/models/{slot}", "/models/{slot}/rollback")
ROUTES: Final = (
    "/score",
    "/livez",
    "/readyz",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/",
    *MODEL_ROUTES,
    "other",
)
MULTIPROCESS: Final = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_STAGE_S: Final = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_REQUEST_S: Final = (
    5e-4,
    7.5e-4,
    1e-3,
    1.5e-3,
    2.5e-3,
    5e-3,
    0.01,
    0.02,
    0.03,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
)
_REQUESTS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
_CANDIDATES: Final = (1, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000)
_RATIO: Final = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
_LENGTH: Final = (0, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)
_AGE_S: Final = (60, 600, 3600, 21_600, 86_400, 259_200, 604_800, 2_592_000, 7_776_000, 31_536_000)
_DIFFERENCE: Final = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 10.0)
_SCORE: Final = (*(mantissa * 10.0**power for power in range(-5, 0) for mantissa in (1, 2, 5)), 1.0)


class _AllWorkers(Collector):
    """The metrics of all workers together, without the versions that nobody serves any more."""

    def collect(self) -> Iterator[Metric]:
        together: Any = MultiProcessCollector(CollectorRegistry())  # type: ignore[no-untyped-call]
        for metric in together.collect():
            if metric.name == "longsight_model_info":
                metric.samples = [sample for sample in metric.samples if sample.value]
            yield metric


class Metrics:
    """The metrics of one process.

    Args:
        registry: where they are declared; a registry holds them once.

    """

    def __init__(self, registry: CollectorRegistry) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # one more series per series, and nobody reads it
        self.registry = registry
        self._waiting: list[Callable[[], None]] = []
        self._others: list[weakref.WeakMethod[Callable[[], None]]] = []
        if MULTIPROCESS not in os.environ:
            ProcessCollector(registry=registry)
        self._declare_http()
        self._declare_engine()
        self._declare_inputs()
        self.score = self._histogram("score", "Probabilities answered.", _SCORE)
        shadow = self._counter("shadow_total", "Requests of the champion, for the shadow.", ("result",))
        self.shadow = {result: shadow.labels(result) for result in SHADOW_RESULTS}
        self.shadow_score_difference = self._histogram(
            "shadow_score_difference",
            "Absolute difference between the shadow's and the champion's log-odds.",
            _DIFFERENCE,
        )
        self.model_info = self._gauge(
            "model_info", "1 for what is served.", ("slot", "name", "version"), mode="livemax"
        )
        self._shown: set[tuple[str, str, str]] = set()
        self.redis_up = self._gauge("redis_up", "1 while the store answers, else 0.", mode="livemin")
        self.redis_breaker_open = self._gauge(
            "redis_breaker_open", "1 while reads are not tried because the store failed.", mode="livemax"
        )

    def _declare_http(self) -> None:
        self.requests = self._tally("requests_total", "Answers by route and status code.", ("route", "code"))
        seconds = self._histogram("request_seconds", "From request to answer.", _REQUEST_S, ("route",))
        self.request_seconds = {route: self._child(seconds, route) for route in ROUTES}
        stages = self._histogram("stage_seconds", "Time of one request in one stage.", _STAGE_S, ("stage",))
        self.stage_seconds = {stage: self._child(stages, stage) for stage in STAGES}
        shed = self._counter("shed_total", "Scoring requests given up unscored, by reason.", ("reason",))
        self.shed = {reason: shed.labels(reason) for reason in SHED_REASONS}
        captured = self._counter(
            "captured_total", "Requests kept in a file, by why; or that were not, by why not.", ("result",)
        )
        self.captured = {result: captured.labels(result) for result in CAPTURED}
        self._answers: dict[tuple[str, int], TallyCounter] = {}

    def _declare_engine(self) -> None:
        self.batch_requests = self._histogram(
            "batch_requests", "Requests in one run of the graph.", _REQUESTS
        )
        self.batch_candidates = self._histogram(
            "batch_candidates", "Candidates in one run of the graph.", _CANDIDATES
        )
        self.padding_ratio = self._histogram(
            "padding_ratio", "Share of a run's cells that is padding.", _RATIO
        )
        self.queue_candidates = TallyGauge(
            "longsight_queue_candidates",
            "Candidates of all requests inside the service.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._waiting.append(self.queue_candidates.count)

    def _declare_inputs(self) -> None:
        history = self._tally("history_total", "Histories by how their read ended.", ("status",))
        self.history = {status: self._child(history, status) for status in HISTORY_STATUSES}
        self.history_length = self._histogram(
            "history_length", "Behaviours a request was scored with.", _LENGTH
        )
        self.history_age_seconds = self._histogram(
            "history_age_seconds", "Age of the newest behaviour at the request's time.", _AGE_S
        )
        self.history_cached = self._counter(
            "history_cached_total", "Histories of which at most what was added had to be read."
        )
        self.history_current = self._counter(
            "history_current_total",
            "Histories of which nothing had to be read: the store tells what changes.",
        )
        self.history_extended = self._counter(
            "history_extended_total", "Histories that needed a second read to be complete."
        )
        self.unknown_ads = self._counter("unknown_ads_total", "Candidates that the catalogue does not know.")
        self._oov = self._counter("oov_total", "Values outside the vocabulary, by field.", ("field",))
        self._missing = self._counter("missing_total", "Values that were missing, by field.", ("field",))
        self.oov: dict[str, Counter] = {}
        self.missing: dict[str, Counter] = {}

    def bind_fields(self, fields: Sequence[str]) -> None:
        """Open more series of `oov_total` and `missing_total`: a schema's fields, such as `ad.brand`."""
        self.oov |= {name: self._oov.labels(name) for name in fields}
        self.missing |= {name: self._missing.labels(name) for name in fields}

    def show_models(self, slots: Mapping[str, tuple[str, str]]) -> None:
        """Say which name and version each slot holds, and nothing of what it held before."""
        now = {(slot, *model) for slot, model in slots.items()}
        for gone in self._shown - now:
            if MULTIPROCESS in os.environ:
                self.model_info.labels(*gone).set(0)  # it can't be removed; `exposition` leaves it out
            else:
                self.model_info.remove(*gone)
        for labels in now:
            self.model_info.labels(*labels).set(1)
        self._shown = now

    def answered(self, route: str, code: int, seconds: float) -> None:
        """Count one answer of a route of `ROUTES`."""
        counter = self._answers.get((route, code))
        if counter is None:
            counter = self._answers[route, code] = self._child(self.requests, route, str(code))
        counter.inc()
        self.request_seconds[route].observe(seconds)

    def when_counting(self, count: Callable[[], None]) -> None:
        """Have a method called by `count_waiting` for as long as its object lives."""
        self._others = [other for other in self._others if other() is not None]
        self._others.append(weakref.WeakMethod(count))

    def count_waiting(self) -> None:
        """Count the observations that wait: other workers don't see them before."""
        for count in (*self._waiting, *[other() for other in self._others]):
            if count is not None:
                count()

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format: of this process, or of all workers together."""
        self.count_waiting()
        if MULTIPROCESS not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        together.register(_AllWorkers())
        return generate_latest(together)

    def _counter(self, name: str, about: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(f"longsight_{name}", about, labels, registry=self.registry)

    def _tally(self, name: str, about: str, labels: Sequence[str]) -> TallyCounter:
        return TallyCounter(f"longsight_{name}", about, labels, registry=self.registry)

    def _histogram(
        self, name: str, about: str, buckets: Sequence[float], labels: Sequence[str] = ()
    ) -> ArrayHistogram:
        made = ArrayHistogram(f"longsight_{name}", about, labels, buckets=buckets, registry=self.registry)
        if not labels:
            self._waiting.append(made.count)
        return made

    def _child(self, parent: Tally, *labels: str) -> Tally:
        child = parent.labels(*labels)
        self._waiting.append(child.count)
        return child

    def _gauge(
        self,
        name: str,
        about: str,
        labels: Sequence[str] = (),
        *,
        mode: Literal["livemax", "livemin", "livesum"],
    ) -> Gauge:
        return Gauge(f"longsight_{name}", about, labels, registry=self.registry, multiprocess_mode=mode)


def metric_names() -> list[str]:
    """Return the names of all our metrics, as they are written in docs and dashboards."""
    metrics = Metrics(CollectorRegistry())
    return sorted(
        family.name + ("_total" if family.type == "counter" else "")
        for family in metrics.registry.collect()
        if family.name.startswith("longsight_")
    )
