"""From a bundle folder to something that scores: verified first, then built, then warm."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.bundle import Bundle, verify_encoding
from contract.encoder import Encoder
from contract.errors import BundleError
from contract.golden import check_scores
from service.api.body import BodyReader
from service.api.state import Served
from service.batching.admission import Admission
from service.batching.engine import Engine, Limits, RunReport
from service.catalog import Catalogue
from service.history.reader import HistoryStore
from service.history.result import StoreState
from service.metrics import Metrics
from service.runtime.graph import Graph
from service.scoring.inputs import counted_fields
from service.scoring.scorer import Scorer
from service.settings import RuntimeSettings, Settings
from service.wiring.explained import explainer_of

CLOCK = time.monotonic


@dataclass(frozen=True, slots=True)
class Verified:
    """A bundle that holds what it promises, on the device that will serve it.

    Attributes:
        golden_requests: how many were scored.
        largest_difference: of their log-odds from the bundle's own.

    """

    bundle: Bundle
    encoder: Encoder
    graph: Graph
    golden_requests: int
    largest_difference: float


@dataclass(frozen=True, slots=True)
class Parts:
    """What lives as long as the worker and has to be closed."""

    store: HistoryStore
    catalogue: Catalogue
    engine: Engine
    served: Served


def verify(path: Path, runtime: RuntimeSettings) -> Verified:
    """Open a bundle and prove it: checksums, schema, raw values to tensors, tensors to scores.

    Raises:
        BundleError: the first thing that does not hold.
        DeviceError: the device can't be used.

    """
    bundle = Bundle.open(path)
    golden = bundle.golden()
    verify_encoding(bundle, golden)
    graph = Graph(bundle.graph_path, device=runtime.device, gpu_memory_bytes=runtime.gpu_memory_bytes)
    if set(graph.inputs) != set(bundle.input_names):
        raise BundleError(
            f"{bundle.graph_path}: takes {', '.join(graph.inputs)}, but the manifest lists "
            f"{', '.join(bundle.input_names)}; export the bundle again"
        )

    def score(tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        return graph.run({name: tensors[name] for name in graph.inputs})

    try:
        largest = check_scores(
            score,
            golden,
            tolerance=bundle.manifest.tolerance,
            hard_routing=bundle.manifest.hard_routing,
        )
    except BundleError as error:
        raise BundleError(f"{bundle.graph_path}: {error}") from error
    return Verified(bundle, bundle.encoder(), graph, len(golden), largest)


def build(verified: Verified, settings: Settings, metrics: Metrics) -> Parts:
    """Build what scores by a verified bundle; nothing is started yet."""
    bundle, encoder, graph = verified.bundle, verified.encoder, verified.graph
    manifest = bundle.manifest
    metrics.bind_fields(counted_fields(bundle.schema))
    metrics.model_info.labels("champion", manifest.name, manifest.version).set(1)

    def on_state(state: StoreState) -> None:
        metrics.redis_up.set(state.up)
        metrics.redis_breaker_open.set(state.breaker_open)

    store = HistoryStore(
        settings.redis.url,
        bundle.schema,
        history_length=manifest.history_length,
        lag_s=manifest.history_lag_s,
        timeout_s=settings.redis.read_timeout_s,
        connect_timeout_s=settings.redis.connect_timeout_s,
        clock=CLOCK,
        on_state=on_state,
    )

    catalogue = Catalogue(settings.redis.url, encoder, connect_timeout_s=settings.redis.connect_timeout_s)
    engine = _engine(settings, metrics)
    explainer = explainer_of(bundle, settings.runtime)
    scorer = Scorer(
        encoder=encoder,
        run=graph.run,
        inputs=graph.inputs,
        explainer=explainer,
        histories=store,
        ads=catalogue,
        engine=engine,
        admission=Admission(settings.batching.max_queued_candidates),
        metrics=metrics,
        clock=CLOCK,
    )
    reader = BodyReader(bundle.schema, max_candidates=settings.server.max_candidates)
    served = Served(
        manifest.name,
        manifest.version,
        scorer=scorer,
        reader=reader,
        longest_explanation=0 if explainer is None else manifest.history_length,
        hard_routing=manifest.hard_routing,
    )
    return Parts(store, catalogue, engine, served)


async def warm(engine: Engine, verified: Verified, settings: Settings) -> None:
    """Run the largest shapes first and the usual ones after, on all threads: no live request is the first."""
    manifest = verified.bundle.manifest
    limits = limits_of(settings)
    longest = manifest.history_length
    most = min(limits.chunk_candidates, settings.server.max_candidates, max(1, limits.max_cells // longest))
    for candidates, length in ((most, longest), (min(100, most), longest), (1, 1)):
        inputs = {
            spec.name: _blank(spec.shape, spec.dtype, {"U": 1, "L": length, "N": candidates})
            for spec in manifest.inputs
        }
        for _ in range(threads_of(settings)):
            await engine.score(
                inputs, run=verified.graph.run, candidates=candidates, length=length, deadline_s=float("inf")
            )


def threads_of(settings: Settings) -> int:
    """Return how many runs go on at the same time: one on a GPU, one per core and worker on a CPU."""
    if settings.runtime.device != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return settings.runtime.threads or max(1, cores // settings.server.workers)


def limits_of(settings: Settings) -> Limits:
    """Return what one run may hold, by the settings or the device."""
    batching = settings.batching
    on_cpu = settings.runtime.device == "cpu"
    return Limits(
        max_requests=batching.max_requests or (1 if on_cpu else 32),
        max_cells=batching.max_cells or (500_000 if on_cpu else 8_000_000),
        chunk_candidates=batching.chunk_candidates or (500 if on_cpu else 5000),
    )


def _engine(settings: Settings, metrics: Metrics) -> Engine:
    def on_run(report: RunReport) -> None:
        metrics.batch_requests.observe(report.requests)
        metrics.batch_candidates.observe(report.candidates)
        metrics.padding_ratio.observe(report.padding_ratio)

    return Engine(
        limits=limits_of(settings),
        running=threads_of(settings),
        prepared=0 if settings.runtime.device == "cpu" else 1,
        inline_s=settings.batching.inline_ms / 1e3 if settings.runtime.device == "cpu" else 0.0,
        clock=CLOCK,
        on_run=on_run,
        on_late=metrics.shed["deadline"].inc,
    )


def _blank(shape: tuple[str | int, ...], dtype: str, sizes: Mapping[str, int]) -> NDArray[Any]:
    lengths = [sizes[dim] if isinstance(dim, str) else dim for dim in shape]
    return np.ones(lengths, dtype=bool) if dtype == "bool" else np.zeros(lengths, dtype=dtype)
