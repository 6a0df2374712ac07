"""A bundle that scores, whatever slots it is in: proven, built and warmed beside what serves, then taken into use.

All that takes long happens on a thread. Its Python is what requests notice: each time the event loop wants the
interpreter it waits for the thread's turn to end, which is 5 ms by default and shorter while a bundle is made.
"""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contract.bundle import Bundle
from contract.errors import BundleError
from service.api.body import BodyReader
from service.api.state import Served
from service.batching.admission import Admission
from service.batching.engine import Engine
from service.catalog import Catalogue
from service.history.reader import HistoryStore
from service.metrics import Metrics
from service.runtime.graph import Graph
from service.scoring.history import HistoryEncoder
from service.scoring.inputs import counted_fields
from service.scoring.scorer import Scorer
from service.settings import Settings
from service.wiring.assembly import CLOCK, Verified, limits_of, threads_of, verify
from service.wiring.explained import explainer_of
from service.wiring.slot_file import Ref
from service.wiring.stores import Stores

DRAIN_POLL_S: Final = 0.05
TURN_S: Final = 0.005  # as Python has it
SHORT_TURN_S: Final = 0.0005
ANY: Final = 1 << 62  # candidates: what is let in was let in before

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shared:
    """What all bundles of a worker share."""

    settings: Settings
    metrics: Metrics
    stores: Stores
    engine: Engine
    admission: Admission


class Unit:
    """One verified bundle with all that scores by it; made by `unit_of`.

    Attributes:
        ref: which bundle.
        served: what routes see of it.
        store: its histories.
        catalogue: its ads.

    """

    def __init__(self, ref: Ref, verified: Verified, shared: Shared, store: HistoryStore) -> None:
        self.ref = ref
        self.store = store
        self._shared = shared
        self._bundle = bundle = verified.bundle
        self._run = verified.graph.run
        settings, metrics, manifest = shared.settings, shared.metrics, bundle.manifest
        metrics.bind_fields(counted_fields(bundle.schema))
        redis = settings.redis
        self.catalogue = Catalogue(redis.url, verified.encoder, connect_timeout_s=redis.connect_timeout_s)
        explainer = explainer_of(bundle, settings.runtime)

        behaviors = HistoryEncoder(
            verified.encoder,
            inputs=verified.graph.inputs,
            lag_s=manifest.history_lag_s,
            cache_bytes=redis.cache_bytes,
            clock=CLOCK,
        )

        def scorer(admission: Admission, *, background: bool) -> Scorer:
            return Scorer(
                encoder=verified.encoder,
                run=self._run,
                inputs=verified.graph.inputs,
                explainer=explainer,
                histories=store,
                behaviors=behaviors,
                ads=self.catalogue,
                engine=shared.engine,
                admission=admission,
                metrics=metrics,
                clock=CLOCK,
                background=background,
            )

        self.served = Served(
            manifest.name,
            manifest.version,
            scorer=scorer(shared.admission, background=False),
            shadow_scorer=scorer(Admission(ANY), background=True),
            reader=BodyReader(bundle.schema, max_candidates=settings.server.max_candidates),
            schema=bundle.schema,
            longest_explanation=0 if explainer is None else manifest.history_length,
            closeness=manifest.closeness,
        )

    async def close(self) -> None:
        """Let its last request finish, then give back what it holds."""
        while self.served.inside:  # noqa: ASYNC110 - requests should not have to tell anybody
            await asyncio.sleep(DRAIN_POLL_S)
        self._shared.metrics.count_waiting()  # the counter of its inputs goes with it
        self._shared.engine.forget(self._run)
        await self.catalogue.close()
        await self._shared.stores.release(self._bundle)


async def unit_of(ref: Ref, shared: Shared) -> Unit:
    """Return a bundle proven, built and warm, its store and catalogue started but not waited for.

    Raises:
        BundleError: it does not hold what it promises, or is not the version that was meant.
        DeviceError: the device can't be used.

    """
    with _short_turns():
        verified = await asyncio.to_thread(_proven, ref, shared.settings)
    store = shared.stores.acquire(verified.bundle)
    try:
        with _short_turns():
            unit = await asyncio.to_thread(Unit, ref, verified, shared, store)
        unit.catalogue.start()
    except BaseException:
        await shared.stores.release(verified.bundle)
        raise
    try:
        await _warm(shared.engine, verified, shared.settings)
    except BaseException:
        await unit.close()
        raise
    return unit


@contextlib.contextmanager
def _short_turns() -> Iterator[None]:
    """Have threads of Python take short turns, so that requests wait less for the interpreter."""
    sys.setswitchinterval(SHORT_TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(TURN_S)


def _proven(ref: Ref, settings: Settings) -> Verified:
    """Verify a bundle and run its largest shape, so that memory is there before the first request is."""
    verified = verify(ref.path, settings.runtime)
    version = verified.bundle.manifest.version
    if version != ref.version:
        raise BundleError(f"{ref.path}: holds version {version} now, {ref.version} was meant; name it again")
    largest = _shapes(verified.bundle, settings)[0]
    verified.graph.run(_blanks(verified.bundle, verified.graph, *largest))
    return verified


async def _warm(engine: Engine, verified: Verified, settings: Settings) -> None:
    """Run the largest shapes first and the usual ones after, on all threads: no live request is the first."""
    bundle, graph = verified.bundle, verified.graph
    for candidates, length in _shapes(bundle, settings):
        inputs = _blanks(bundle, graph, candidates, length)
        for _ in range(threads_of(settings)):
            await engine.score(
                inputs, run=graph.run, candidates=candidates, length=length, deadline_s=float("inf")
            )


def _shapes(bundle: Bundle, settings: Settings) -> list[tuple[int, int]]:
    """Return candidates and history lengths: the most of one run, the usual, the least."""
    limits = limits_of(settings)
    longest = bundle.manifest.history_length
    most = min(limits.chunk_candidates, settings.server.max_candidates, max(1, limits.max_cells // longest))
    usual = (min(100, most), longest)
    # as many as the engine needs to know how long runs take
    return [(most, longest), usual, (1, longest), (most, 1), (1, 1), usual, usual, (most, longest)]


def _blanks(bundle: Bundle, graph: Graph, candidates: int, length: int) -> Mapping[str, NDArray[Any]]:
    sizes = {"U": 1, "L": length, "N": candidates}
    return {
        spec.name: _blank(spec.shape, spec.dtype, sizes)
        for spec in bundle.manifest.inputs
        if spec.name in graph.inputs
    }


def _blank(shape: tuple[str | int, ...], dtype: str, sizes: Mapping[str, int]) -> NDArray[Any]:
    lengths = [sizes[dim] if isinstance(dim, str) else dim for dim in shape]
    return np.ones(lengths, dtype=bool) if dtype == "bool" else np.zeros(lengths, dtype=dtype)
