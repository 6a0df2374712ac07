"""Callers who ask a service with slots again and again, and hold every answer to the version that it names."""

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.running_service import Running

TOKEN: Final = "benchmark"  # noqa: S105 - of a service on the loopback that lives for minutes
CALLERS: Final = 4
CLOSE: Final = 1e-4  # in log-odds

Expected: TypeAlias = Mapping[str, NDArray[np.float64]]
"""Log-odds of one body by version."""


@dataclass
class Seen:
    """What callers saw; appended to by their threads."""

    moments: list[tuple[float, float]] = field(default_factory=list)
    failed: int = 0
    mixed: int = 0


def change(service: Running, slot: str, body: Mapping[str, object]) -> float:
    """Put a bundle into a slot; returns the seconds it took."""
    connection = http.client.HTTPConnection(service.host, service.port, timeout=150)
    began = time.perf_counter()
    with contextlib.closing(connection):
        connection.request("POST", f"/models/{slot}", json.dumps(body), {"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        content = answer.read()
    if answer.status != 200:
        raise SystemExit(f"the change was answered {answer.status}: {content!r}")
    return time.perf_counter() - began


def score(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, Any]:
    """Return status and content of one answer."""
    connection.request("POST", "/score", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def expected_scores(
    service: Running, names: Sequence[str], bodies: Sequence[bytes]
) -> list[dict[str, NDArray[np.float64]]]:
    """Return log-odds of each body by version, asked of both bundles by name of their slot."""
    change(service, "challenger", {"bundle": names[1], "share": 0})
    by_body: list[dict[str, NDArray[np.float64]]] = []
    connection = http.client.HTTPConnection(service.host, service.port, timeout=20)
    for body in bodies:
        found = {}
        for slot in ("champion", "challenger"):
            status, content = score(connection, json.dumps({**json.loads(body), "model": slot}).encode())
            if status != 200 or content["history"]["status"] != "hit":
                raise SystemExit(f"the service answered {status}: {content}")
            found[content["version"]] = _log_odds(content["scores"])
        first, second = found.values()
        if np.abs(first - second).max() < 100 * CLOSE:
            raise SystemExit("the two bundles score alike: mixed answers would not be seen")
        by_body.append(found)
    connection.close()
    change(service, "challenger", {"bundle": None})
    return by_body


@contextlib.contextmanager
def callers(
    service: Running,
    bodies: Sequence[bytes],
    expected: Sequence[Expected] | None,
    seen: Seen,
) -> Iterator[None]:
    """Keep `CALLERS` asking; without `expected` nobody looks at scores."""
    over = threading.Event()

    def ask(first: int) -> None:
        connection = http.client.HTTPConnection(service.host, service.port, timeout=20)
        index = first
        while not over.is_set():
            index = (index + 1) % len(bodies)
            began = time.perf_counter()
            try:
                status, content = score(connection, bodies[index])
            except (OSError, http.client.HTTPException):
                seen.failed += 1
                connection.close()
                continue
            seen.moments.append((began, time.perf_counter() - began))
            if status != 200 or content["history"]["status"] != "hit":
                seen.failed += 1
                continue
            if expected is None:
                continue
            known = expected[index].get(content["version"])
            if known is None or np.abs(known - _log_odds(content["scores"])).max() > CLOSE:
                seen.mixed += 1

    threads = [threading.Thread(target=ask, args=(7 * number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _log_odds(scores: Sequence[float]) -> NDArray[np.float64]:
    p = np.asarray(scores, dtype=np.float64)
    log_odds: NDArray[np.float64] = np.log(p) - np.log1p(-p)
    return log_odds
