"""Replays logged requests through a running service and compares its log-odds with the offline ones.

Answers scored without the user's history (`timeout`, `unavailable`) say nothing about skew: they are asked for again,
then counted apart.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cli.client import Client, RefusedError
from cli.pairs import LoggedRequest, count_requests, read_pairs, requests
from cli.progress import ProgressCallback
from contract.closeness import Closeness

TOLERANCE: Final = 1e-4  # of log-odds: what training and serving may differ by
CONNECTIONS: Final = 4
RETRIES: Final = 3
RETRY_WAIT_S: Final = 0.1
POLL_S: Final = 0.5
AT_ONCE: Final = 256  # requests handed to the threads at a time, so that a long log is not held as JSON
WITHOUT_HISTORY: Final = frozenset({"timeout", "unavailable"})
BUSY: Final = frozenset({429, 503})


@dataclass
class Tally:
    """What the answers so far amount to."""

    closeness: Closeness
    impressions: int = 0
    without_history: int = 0  # impressions whose answer never had the history
    retries: int = 0
    unknown_ads: int = 0
    history: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    differences: list[NDArray[np.float64]] = field(default_factory=list)
    worst: dict[str, Any] = field(default_factory=dict)
    _worst_difference: float = -1.0

    def add(self, request: LoggedRequest, answer: dict[str, Any], *, retries: int) -> None:
        """Count one answer."""
        status = answer["history"]["status"]
        self.impressions += len(request.logit)
        self.retries += retries
        self.unknown_ads += answer["unknown_ads"]
        self.history[status] += 1
        self.versions[f"{answer['model']} {answer['version']}"] += 1
        if status in WITHOUT_HISTORY:
            self.without_history += len(request.logit)
            return
        served = log_odds(np.asarray(answer["scores"], dtype=np.float64))
        difference = differences(served, request.logit)
        self.differences.append(difference)
        at = int(difference.argmax())
        if difference[at] > self._worst_difference:
            self._worst_difference = float(difference[at])
            self.worst = {
                "request": request.name,
                "ad_id": request.body["candidates"]["ad_id"][at],
                "offline": float(request.logit[at]),
                "served": float(served[at]),
            }

    def report(self, *, seconds: float) -> dict[str, Any]:
        """Sum up; `ok` means that answers were compared and that they are as close as they must be."""
        difference = np.concatenate(self.differences) if self.differences else np.empty(0)
        some = bool(difference.size)
        return {
            "requests": self.history.total(),
            "impressions": self.impressions,
            "compared": int(difference.size),
            "share_compared": difference.size / self.impressions if self.impressions else 0.0,
            "without_history": self.without_history,
            "retries": self.retries,
            "unknown_ads": self.unknown_ads,
            "history": dict(self.history),
            "versions": dict(self.versions),
            "difference": {
                "max": float(difference.max()) if some else math.nan,
                "p99": float(np.quantile(difference, 0.99)) if some else math.nan,
                "mean": float(difference.mean()) if some else math.nan,
            },
            "worst": self.worst,
            "tolerance": self.closeness.tolerance,
            "hard_routing": self.closeness.hard_routing,
            "farthest": self.closeness.farthest,
            "beyond_tolerance": int(self.closeness.beyond(difference).sum()),
            "seconds": seconds,
            "ok": some and self.closeness.holds(difference),
        }


def replay(
    log: Path, *, url: str, predictions: Path, limit: int | None, progress: ProgressCallback
) -> dict[str, Any]:
    """Score logged requests at `url` and compare.

    Args:
        log: a log folder.
        url: of the service, such as `http://127.0.0.1:8000`.
        predictions: what `evaluate --predictions` wrote for a run on this log.
        limit: only so many requests, evenly spread; None = all.
        progress: called with (done, total, label).

    Raises:
        LogError, PredictionsError: the files do not fit.
        RefusedError, ServiceUnreachableError: the service did not score a request.

    """
    Client(url).close()  # a wrong URL is found before the log is read
    progress(0, None, "reading the log and the predictions")
    pairs, context = read_pairs(log, predictions)
    logged = count_requests(pairs)
    total = logged if limit is None else min(limit, logged)
    tally = Tally(_closeness(url))
    began = time.perf_counter()
    # The connections close before the pool waits for its threads: an interrupt then ends them too.
    with ThreadPoolExecutor(CONNECTIONS) as pool, _connections(url) as connections:
        stream = requests(pairs, context, limit=limit)
        while batch := list(islice(stream, AT_ONCE)):
            futures = [pool.submit(connections.ask, request) for request in batch]
            while wait(futures, timeout=POLL_S, return_when=FIRST_EXCEPTION).not_done and not _failed(
                futures
            ):
                pass  # an interrupt that arrives just before a wait without end would not end it
            for request, future in zip(batch, futures, strict=True):
                answer, retries = future.result()
                tally.add(request, answer, retries=retries)
            progress(tally.history.total(), total, "replaying requests")
    return tally.report(seconds=time.perf_counter() - began)


def log_odds(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(p / (1 - p)); 0 and 1 give -inf and inf."""
    with np.errstate(divide="ignore"):
        return np.log(probability) - np.log1p(-probability)


def differences(served: NDArray[np.float64], offline: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return |served - offline|; where a probability is 1 within float64, the offline value rounds likewise."""
    beyond = np.isinf(served) & (log_odds(1 / (1 + np.exp(-offline))) == served)
    return np.where(beyond, 0.0, np.abs(served - offline))


def _closeness(url: str) -> Closeness:
    """Ask the service how close the model it serves is to its run; one that does not say so is held to `TOLERANCE`."""
    client = Client(url)
    try:
        _, body = client.get("/readyz")
    finally:
        client.close()
    model = body.get("model") if isinstance(body, dict) else None
    said = model if isinstance(model, dict) else {}
    tolerance, farthest = (
        float(value) if isinstance(value := said.get(name), int | float) else 0.0
        for name in ("tolerance", "farthest")
    )
    return Closeness(
        max(TOLERANCE, tolerance), hard_routing=said.get("hard_routing") is True, measured=farthest
    )


class _Connections:
    """One client per thread, and the retries."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._local = threading.local()
        self._lock = threading.Lock()
        self._clients: list[Client] = []
        self._stopped = False

    def ask(self, request: LoggedRequest) -> tuple[dict[str, Any], int]:
        """Return the answer and how often it had to be asked for again."""
        client = self._client()
        for tries in _tries():
            try:
                answer = client.score(request.body)
            except RefusedError as error:
                if error.status not in BUSY or tries == RETRIES:
                    raise RefusedError(f"request {request.name}: {error}", status=error.status) from error
                continue
            if answer["history"]["status"] not in WITHOUT_HISTORY or tries == RETRIES:
                return answer, tries
        raise AssertionError

    def stop(self) -> None:
        """End every exchange, also those about to begin."""
        with self._lock:
            self._stopped = True
            for client in self._clients:
                client.stop()

    def _client(self) -> Client:
        if not hasattr(self._local, "client"):
            self._local.client = Client(self._url)
            with self._lock:
                self._clients.append(self._local.client)
                if self._stopped:
                    self._local.client.stop()
        client: Client = self._local.client
        return client


@contextmanager
def _connections(url: str) -> Iterator[_Connections]:
    connections = _Connections(url)
    try:
        yield connections
    finally:
        connections.stop()


def _failed(futures: list[Future[tuple[dict[str, Any], int]]]) -> bool:
    return any(future.done() and future.exception() is not None for future in futures)


def _tries() -> Iterator[int]:
    """Count 0, 1, ... `RETRIES`, with a longer wait before each."""
    for tries in range(RETRIES + 1):
        if tries:
            time.sleep(RETRY_WAIT_S * tries)
        yield tries
