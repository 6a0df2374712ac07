"""What HTTP, Redis and encoding cost on top of the graph, at one connection: TIN, L = 1000, N = 100.

One request at a time goes over one kept-alive connection; after each, the same encoded inputs go through a bare
`session.run` in this process, in a session set up as the service's, so that both see the same machine at the same
moment. Reported: p50 and p99 of both and
their ratios. Run: `python benchmarks/serving_latency.py [--bundle DIR --redis URL] [--json]`; without a bundle a
synthetic one of the demo's shape is made (half a minute).
"""

import argparse
import gc
import json
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import redis
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.running_service import Prepared, Running, machine, prepared, running
from contract.bundle import Bundle
from contract.records import Records, record_dtype
from contract.request import RawRequest
from service.layout import META, Layout, unpack_ad
from service.runtime.graph import Graph

P50_LIMIT: Final = 3.0
P99_LIMIT: Final = 6.0
FORMS: Final = ("ids", "columns", "objects")
USERS: Final = 50
WARM_UP: Final = 200


@dataclass(frozen=True)
class Case:
    """One request, as the service and as the graph are given it."""

    body: bytes
    tensors: dict[str, Any]


class Connection:
    """One kept-alive connection that writes and reads as little as HTTP allows, to measure the other end."""

    def __init__(self, service: Running) -> None:
        self._socket = socket.create_connection((service.host, service.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(self, body: bytes) -> tuple[bytes, bytes]:
        """Return head and body of the answer to `POST /score`."""
        head = b"POST /score HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self._socket.sendall(head % len(body) + body)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._socket.recv(65_536)
        answer_head, _, answer = received.partition(b"\r\n\r\n")
        length = int(answer_head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(answer) < length:
            answer += self._socket.recv(65_536)
        if not answer_head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"the service answered {answer_head.splitlines()[0]!r}: {answer!r}")
        return answer_head, answer


def cases(what: Prepared, *, candidates: int, count: int) -> dict[str, list[Case]]:
    """Return requests of users whose history fills the window, by the form of their candidates."""
    bundle = Bundle.open(what.bundle)
    client = redis.Redis.from_url(what.redis, protocol=2)
    layout = Layout.find(_answer(client.hgetall(META)), bundle.schema)
    if layout is None:
        raise SystemExit(f"{what.redis} holds no log of the bundle's schema; load one with longsight load")
    dtype = record_dtype(bundle.schema)
    least = bundle.manifest.history_length * dtype.itemsize
    catalogue = _ads(client, layout)
    rng = np.random.default_rng(0)
    found: dict[str, list[Case]] = {form: [] for form in FORMS}
    for name in client.scan_iter(match=f"ls:{layout.number}:*:h", count=1000):
        stored: bytes = _answer(client.get(name))
        if len(stored) < least or len(found["ids"]) == count:
            continue
        profile = {
            key.decode(): text.decode() for key, text in _answer(client.hgetall(name[:-1] + b"p")).items()
        }
        ads = [catalogue[index] for index in rng.choice(len(catalogue), candidates, replace=False)]
        for form in FORMS:
            found[form].append(_case(bundle, np.frombuffer(stored, dtype=dtype), profile, ads, form=form))
    if not found["ids"]:
        raise SystemExit(f"no user in {what.redis} has {bundle.manifest.history_length} events")
    return found


def measure(service: Running, bundle: Bundle, requests: list[Case], *, pairs: int) -> dict[str, Any]:
    """Time the service and the bare graph in turn; return milliseconds, ratios and the stages' medians."""
    graph = Graph(bundle.graph_path)
    connection = Connection(service)
    served_s, bare_s = np.empty(pairs), np.empty(pairs)
    stages: list[dict[str, float]] = []
    difference = 0.0
    for index in range(-WARM_UP, pairs):
        case = requests[index % len(requests)]
        started = time.perf_counter()
        head, answer = connection.post(case.body)
        middle = time.perf_counter()
        logit_UN = graph.run(case.tensors)
        ended = time.perf_counter()
        if index >= 0:
            served_s[index], bare_s[index] = middle - started, ended - middle
            stages.append(_stages(head))
        if index % 100 == 0:
            difference = max(difference, _difference(answer, logit_UN))
    result: dict[str, Any] = {"pairs": pairs, "largest_difference_in_log_odds": difference}
    for quantile in (50, 99):
        served, bare = (float(np.percentile(times, quantile)) * 1e3 for times in (served_s, bare_s))
        result |= {
            f"p{quantile}_ms": served,
            f"bare_p{quantile}_ms": bare,
            f"p{quantile}_ratio": served / bare,
        }
    result["stage_p50_ms"] = {name: float(np.median([one[name] for one in stages])) for name in stages[0]}
    return result


def main() -> None:
    """Measure, print a table, and with --json one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, help="a TIN bundle; by default one is made")
    parser.add_argument("--redis", help="URL of a store that holds the bundle's log")
    parser.add_argument("--candidates", type=int, default=100, help="N")
    parser.add_argument("--pairs", type=int, default=2000, help="requests per form")
    parser.add_argument("--json", action="store_true", help="end stdout with one JSON object")
    arguments = parser.parse_args()
    results = {}
    with prepared(arguments.bundle, arguments.redis) as what, running(what) as service:
        bundle = Bundle.open(what.bundle)
        by_form = cases(what, candidates=arguments.candidates, count=USERS)
        gc.disable()
        for form, requests in by_form.items():
            results[form] = measure(service, bundle, requests, pairs=arguments.pairs)
    report = {
        "benchmark": "serving_latency",
        "machine": machine(),
        "model": bundle.manifest.model.name,
        "version": bundle.manifest.version,
        "history_length": bundle.manifest.history_length,
        "candidates": arguments.candidates,
        "forms": results,
        "bars": _bars(results["ids"]),
    }
    for form, result in results.items():
        print(
            f"{form:8} p50 {result['p50_ms']:.3f} ms = {result['p50_ratio']:.2f} x {result['bare_p50_ms']:.3f}, "
            f"p99 {result['p99_ms']:.3f} ms = {result['p99_ratio']:.2f} x {result['bare_p99_ms']:.3f}"
        )
        print(
            "         stages, p50 in ms:", {name: round(ms, 3) for name, ms in result["stage_p50_ms"].items()}
        )
    if arguments.json:
        print(json.dumps(report))


def _case(bundle: Bundle, records: Records, profile: dict[str, str], ads: list[Any], *, form: str) -> Case:
    moment = int(records["timestamp"][-1]) + 86_400
    template = bundle.golden()[0].raw
    columns = {name: [*values][:1] * len(ads) for name, values in template.candidate_context.items()}
    shared = {**template.context, **{name: column[0] for name, column in columns.items()}}
    ids = [ad["ad_id"] for ad in ads]
    body: dict[str, Any] = {"user_id": profile["user_id"], "timestamp": moment, "context": shared}
    if form == "ids":
        body["candidates"] = ids
    elif form == "columns":
        body["candidates"] = {"ad_id": ids, "context": columns}
    else:
        body["candidates"] = [
            {"ad_id": ad, "context": {name: column[0] for name, column in columns.items()}} for ad in ids
        ]
    raw = RawRequest(moment, records, ads, shared, {}, profile)
    tensors = raw.encode(bundle.encoder(), history_lag_s=bundle.manifest.history_lag_s)
    return Case(json.dumps(body).encode(), {name: tensors[name] for name in bundle.input_names})


def _ads(client: redis.Redis, layout: Layout) -> list[Any]:
    """Return the ads of a few shards, enough for any request."""
    shards = [_answer(client.hvals(layout.shard(index))) for index in range(64)]
    return [unpack_ad(stored) for shard in shards for stored in shard]


def _answer(value: Any) -> Any:  # noqa: ANN401 - redis types every answer as one of many
    return value


def _stages(head: bytes) -> dict[str, float]:
    timing = head.decode().lower().partition("server-timing: ")[2].partition("\r\n")[0]
    pairs = (entry.split(";dur=") for entry in timing.split(", "))
    return {name: float(ms) for name, ms in pairs}


def _difference(answer: bytes, logit_UN: NDArray[np.float32]) -> float:
    scores = np.array(json.loads(answer)["scores"])
    return float(np.abs(np.log(scores / (1 - scores)) - logit_UN[0].astype(np.float64)).max())


def _bars(result: dict[str, Any]) -> list[dict[str, object]]:
    limits = {"p50_ratio": P50_LIMIT, "p99_ratio": P99_LIMIT}
    return [
        {
            "name": f"one connection, TIN, L 1000, N 100: {name.partition('_')[0]} over that of the bare graph",
            "value": result[name],
            "limit": limit,
            "ok": result[name] <= limit,
        }
        for name, limit in limits.items()
    ]


if __name__ == "__main__":
    main()
