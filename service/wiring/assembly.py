"""Proves bundles, and makes what all bundles of a worker share."""

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contract.bundle import Bundle, verify_encoding
from contract.encoder import Encoder
from contract.errors import BundleError
from contract.golden import check_scores
from service.batching.admission import Admission
from service.batching.engine import Engine, Limits, RunReport
from service.metrics import Metrics
from service.runtime.graph import Graph
from service.settings import RuntimeSettings, Settings

CLOCK = time.monotonic
CPU_SHARE_S: Final = 0.003
"""Longest run on a CPU that requests share: the graph takes as long for each of them as alone, but the interpreter is
called once. One process, TIN, L = 1000, N = 100, 16 connections: 1,340 requests/s without sharing, 1,500 with."""


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


def threads_of(settings: Settings) -> int:
    """Return how many runs go on at the same time: one on a GPU, one per core and worker on a CPU."""
    if settings.runtime.device != "cpu":
        return 1
    return settings.runtime.threads or max(1, _cores() // settings.server.workers)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limits_of(settings: Settings) -> Limits:
    """Return what one run may hold, by the settings or the device."""
    batching = settings.batching
    on_cpu = settings.runtime.device == "cpu"
    return Limits(
        max_requests=batching.max_requests or (4 if on_cpu else 32),
        max_cells=batching.max_cells or (500_000 if on_cpu else 8_000_000),
        chunk_candidates=batching.chunk_candidates or (500 if on_cpu else 5000),
        share_s=CPU_SHARE_S if on_cpu else math.inf,
    )


def admission_of(settings: Settings) -> Admission:
    """Return what lets requests into a worker, whatever bundle answers them."""
    return Admission(settings.batching.max_queued_candidates, places=threads_of(settings))


def engine_of(settings: Settings, metrics: Metrics) -> Engine:
    """Return the engine of a worker; not started yet."""
    on_cpu, batching = settings.runtime.device == "cpu", settings.batching
    # with a core to spare for it, a thread overlaps with what the loop does
    own_core = on_cpu and threads_of(settings) == 1 and _cores() <= settings.server.workers

    def on_run(report: RunReport) -> None:
        metrics.batch_requests.observe(report.requests)
        metrics.batch_candidates.observe(report.candidates)
        metrics.padding_ratio.observe(report.padding_ratio)

    return Engine(
        limits=limits_of(settings),
        running=threads_of(settings),
        prepared=0 if on_cpu else 1,
        inline_s=batching.inline_ms / 1e3 if on_cpu else 0.0,
        turn_s=batching.turn_ms / 1e3 if own_core else 0.0,
        nice=settings.runtime.nice if on_cpu else 0,
        clock=CLOCK,
        on_run=on_run,
        on_late=metrics.shed["deadline"].inc,
    )
