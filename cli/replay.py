"""Replays logged requests through a running service and compares its log-odds with the offline ones.

Answers scored without the user's history (`timeout`, `unavailable`) say nothing about skew: they are asked for again,
then counted apart.
"""

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

from cli.asking import WITHOUT_HISTORY, ask, closeness_at
from cli.client import Client
from cli.differences import Differences, log_odds
from cli.pairs import LoggedRequest, count_requests, read_pairs, requests
from cli.progress import ProgressCallback

CONNECTIONS: Final = 4
POLL_S: Final = 0.5
AT_ONCE: Final = 256  # requests handed to the threads at a time, so that a long log is not held as JSON


@dataclass
class Tally:
    """What the answers so far amount to."""

    differences: Differences
    impressions: int = 0
    without_history: int = 0  # impressions whose answer never had the history
    retries: int = 0
    unknown_ads: int = 0
    history: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)

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
        self.differences.add(
            request.name,
            request.body["candidates"]["ad_id"],
            expected_N=request.logit,
            found_N=log_odds(np.asarray(answer["scores"], dtype=np.float64)),
        )

    def report(self, *, seconds: float) -> dict[str, Any]:
        """Sum up; `ok` means that answers were compared and that they are as close as they must be."""
        compared = self.differences.compared
        return {
            "requests": self.history.total(),
            "impressions": self.impressions,
            "compared": compared,
            "share_compared": compared / self.impressions if self.impressions else 0.0,
            "without_history": self.without_history,
            "retries": self.retries,
            "unknown_ads": self.unknown_ads,
            "history": dict(self.history),
            "versions": dict(self.versions),
            **self.differences.report(),
            "seconds": seconds,
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
    tally = Tally(Differences(closeness_at(url), expected="offline", found="served"))
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
        return ask(lambda: client.score(request.body), request.name)

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
