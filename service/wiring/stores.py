"""Connections to the store of histories, shared by the bundles that read it alike."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from contract.bundle import Bundle
from service.history.reader import HistoryStore
from service.history.result import StoreState
from service.metrics import Metrics
from service.settings import RedisSettings

Key: TypeAlias = tuple[str, int, int]  # schema, history length, history lag


@dataclass(slots=True)
class _Shared:
    store: HistoryStore
    users: int = 0


class Stores:
    """One started store for each way to read histories that a bundle in use has.

    Args:
        settings: of the store.
        metrics: told of the state of all of them: up while all are, open while one is.
        clock: monotonic seconds.

    """

    def __init__(self, settings: RedisSettings, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._shared: dict[Key, _Shared] = {}

    def acquire(self, bundle: Bundle) -> HistoryStore:
        """Return the store for a bundle, started in the running loop; pair with `release`."""
        key = _key(bundle)
        shared = self._shared.get(key)
        if shared is None:
            shared = self._shared[key] = _Shared(self._open(bundle))
            shared.store.start()
        shared.users += 1
        return shared.store

    async def release(self, bundle: Bundle) -> None:
        """Give back what `acquire` gave; the last user closes it."""
        shared = self._shared[_key(bundle)]
        shared.users -= 1
        if not shared.users:
            del self._shared[_key(bundle)]
            await shared.store.close()
            self._show()

    def _open(self, bundle: Bundle) -> HistoryStore:
        settings, manifest = self._settings, bundle.manifest
        return HistoryStore(
            settings.url,
            bundle.schema,
            history_length=manifest.history_length,
            lag_s=manifest.history_lag_s,
            timeout_s=settings.read_timeout_s,
            connect_timeout_s=settings.connect_timeout_s,
            tracking=settings.tracking and settings.cache_bytes > 0,
            confirm=settings.confirm,
            clock=self._clock,
            on_state=self._on_state,
        )

    def _on_state(self, _state: StoreState) -> None:
        self._show()

    def _show(self) -> None:
        states = [shared.store.state for shared in self._shared.values()]
        if states:
            self._metrics.redis_up.set(all(state.up for state in states))
            self._metrics.redis_breaker_open.set(any(state.breaker_open for state in states))


def _key(bundle: Bundle) -> Key:
    manifest = bundle.manifest
    return manifest.fingerprint, manifest.history_length, manifest.history_lag_s
