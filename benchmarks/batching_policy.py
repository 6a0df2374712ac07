"""What the batching policy is worth, in virtual time: the service's own decisions against simpler ones, on one trace.

Recorded traffic is played through a simulated worker (2 cores, an event loop, 2 threads) whose decisions are those of
the service: admission, the queue and the fit of run time. Only time is simulated, by a cost model: of a run, fitted to
TIN (d = 64, 2 behaviour fields) at 36 sizes on one thread; `--measure` fits it anew on this machine.

The trace is a file of JSON lines `{"at_s", "candidates", "length"}` (`--trace`), or generated from a seed: Poisson, N
in 10..500 and L in 20..5000 log-uniform. At 60 % of capacity: slowdown (response / own unloaded time), no deadlines,
against first come, first served, with and without chunks, and against ideal queues fed the same trace: 2 servers, each
request one piece of its unloaded time, in order of arrival (the ideal of the bar), and both shared evenly by all. At
150 %: goodput, answers in time and refusals, with a deadline for all, against the same without refusing.

Run: `python benchmarks/batching_policy.py [--trace FILE] [--measure] [--json]`, half a minute.
"""

import argparse
import heapq
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.bars import bar, finish
from benchmarks.support.virtual_requests import Costs, Request, Rules
from benchmarks.support.virtual_worker import Worker
from service.batching.job import Limits

COSTS: Final = Costs(
    run=(31e-6, 0.125e-6, 0.45e-6, 2.45e-9),
    accept=60e-6,
    read=(60e-6, 0.2e-6),
    encode=(100e-6, 0.3e-6),
    respond=(80e-6, 0.1e-6),
    refuse=30e-6,
    store=150e-6,
    noise=0.1,
)
CHUNKS: Final = Limits(max_requests=1, max_cells=500_000, chunk_candidates=500)
"""The service's own on a CPU."""
WHOLE: Final = Limits(max_requests=1, max_cells=1 << 62, chunk_candidates=1 << 62)
OURS: Final = "the service's policy"
POLICIES: Final = {
    OURS: Rules(CHUNKS),
    "the same, no chunks": Rules(WHOLE),
    "first come first served, chunks": Rules(CHUNKS, by_size=False),
    "first come first served, no chunks": Rules(WHOLE, by_size=False),
}
CLIENTS: Final = 32
"""Callers that keep a worker busy: its capacity."""
LOAD, OVERLOAD = 0.6, 1.5
REQUESTS: Final = 20_000
SIZES: Final = [
    (length, count) for length in (20, 100, 500, 1000, 2000, 5000) for count in (1, 10, 30, 100, 250, 500)
]


def generated(seed: int, count: int, rate: float) -> list[Request]:
    """Return Poisson arrivals, so many a second, of log-uniform sizes."""
    rng = np.random.default_rng(seed)
    at_s = np.cumsum(rng.exponential(1 / rate, count))
    candidates = np.exp(rng.uniform(math.log(10), math.log(500), count)).astype(int)
    lengths = np.exp(rng.uniform(math.log(20), math.log(5000), count)).astype(int)
    return [Request(*row) for row in zip(at_s.tolist(), candidates.tolist(), lengths.tolist(), strict=True)]


def recorded(path: Path) -> list[Request]:
    """Return the requests of a trace file, in order of time."""
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    requests = [Request(row["at_s"], row["candidates"], row["length"]) for row in rows]
    return sorted(requests, key=lambda request: request.at_s)


def at_rate(trace: Sequence[Request], rate: float) -> list[Request]:
    """Return a trace with its pauses stretched or shrunk, so that so many requests come a second."""
    span_s = trace[-1].at_s - trace[0].at_s
    factor = (len(trace) - 1) / (rate * span_s)
    return [replace(request, at_s=(request.at_s - trace[0].at_s) * factor) for request in trace]


def measured() -> tuple[float, float, float, float]:
    """Return the coefficients of a run's time on this machine, by least squares of the relative error."""
    from benchmarks.support.turns import cpu_seconds  # noqa: PLC0415 - needs torch to make a graph
    from benchmarks.support.untrained import tensors, untrained, write  # noqa: PLC0415
    from service.runtime.graph import Graph  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="longsight-policy-") as folder:
        model = untrained("tin", {"embedding_width": 64}, history_length=5000)
        graph = Graph(write(model, Path(folder) / "graph"))
        given = {size: tensors(graph.inputs, behaviors=size[0], candidates=size[1]) for size in SIZES}
        runs = {str(size): partial(graph.run, given[size]) for size in SIZES}
        seconds = np.array([np.median(taken) for taken in cpu_seconds(runs, rounds=7).values()])
    features = np.array([[1.0, length, count, length * count] for length, count in SIZES])
    found, *_ = np.linalg.lstsq(features / seconds[:, None], np.ones(len(SIZES)), rcond=None)
    a, b, c, d = np.maximum(found, 0.0).tolist()
    return a, b, c, d


def capacity(trace: Sequence[Request], costs: Costs) -> float:
    """Return the requests that a worker answers in a second while so many callers wait for it all the time."""
    worker = Worker(trace, costs, rules=POLICIES[OURS], clients=CLIENTS)
    worker.run()
    return len(trace) / worker.now_s


def in_order(trace: Sequence[Request], costs: Costs, servers: int = 2) -> list[float]:
    """Return the response times of an ideal queue: so many servers, one after another, nothing cut."""
    free_s = [0.0] * servers
    response_s = []
    for request in trace:
        ends_s = max(request.at_s, heapq.heappop(free_s)) + costs.unloaded_s(request)
        heapq.heappush(free_s, ends_s)
        response_s.append(ends_s - request.at_s)
    return response_s


def shared(trace: Sequence[Request], costs: Costs, servers: int = 2) -> list[float]:
    """Return the response times when so many servers are shared evenly by all that is there, one each at most."""
    served_s = now_s = 0.0  # what everyone inside has got since the beginning
    inside: list[tuple[float, int]] = []
    response_s = [0.0] * len(trace)

    def pass_until(until_s: float) -> None:
        nonlocal served_s, now_s
        while inside and now_s < until_s:
            speed = min(1.0, servers / len(inside))
            next_s = now_s + (inside[0][0] - served_s) / speed
            if next_s > until_s:
                served_s += (until_s - now_s) * speed
                break
            now_s, (served_s, number) = next_s, heapq.heappop(inside)
            response_s[number] = now_s - trace[number].at_s
        now_s = until_s

    for number, request in enumerate(trace):
        pass_until(request.at_s)
        heapq.heappush(inside, (served_s + costs.unloaded_s(request), number))
    pass_until(math.inf)
    return response_s


def slowdowns(trace: Sequence[Request], costs: Costs, response_s: Sequence[float]) -> dict[str, float]:
    """Return quantiles of the slowdown: of all, and of the tenth that takes longest by itself."""
    own_s = np.array([costs.unloaded_s(request) for request in trace])
    slowdown = np.array(response_s) / own_s
    large = slowdown[own_s >= np.quantile(own_s, 0.9)]
    return {
        "p50": float(np.median(slowdown)),
        "p99": float(np.quantile(slowdown, 0.99)),
        "most": float(slowdown.max()),
        "p99_of_large": float(np.quantile(large, 0.99)),
    }


def loaded(trace: Sequence[Request], costs: Costs) -> dict[str, dict[str, float]]:
    """Return the slowdowns of every policy, and of the ideal queues."""
    table = {
        "ideal: 2 servers, in order": slowdowns(trace, costs, in_order(trace, costs)),
        "ideal: 2 servers, shared evenly": slowdowns(trace, costs, shared(trace, costs)),
    }
    for name, rules in POLICIES.items():
        outcomes = Worker(trace, costs, rules=rules).run()
        table[name] = slowdowns(trace, costs, [outcome.seconds for outcome in outcomes])
    return table


def overloaded(trace: Sequence[Request], costs: Costs, rules: Rules, *, most: float) -> dict[str, float]:
    """Return what became of requests that all have a deadline; `most` = capacity, requests a second."""
    worker = Worker(trace, costs, rules=rules)
    outcomes = worker.run()
    scored_s = np.array([outcome.seconds for outcome in outcomes if outcome.fate == "scored"] or [math.inf])
    refused_s = np.array([outcome.seconds for outcome in outcomes if outcome.fate == "refused"] or [0.0])
    in_time = int((scored_s <= rules.deadline_s).sum())
    return {
        "goodput_of_capacity": in_time / worker.now_s / most,
        "scored": len(scored_s),
        "refused": sum(outcome.fate == "refused" for outcome in outcomes),
        "late": sum(outcome.fate == "late" for outcome in outcomes),
        "scored_p99_ms": 1e3 * float(np.quantile(scored_s, 0.99)),
        "refused_p50_ms": 1e3 * float(np.median(refused_s)),
    }


def show(title: str, table: dict[str, dict[str, float]]) -> None:
    """Print a table."""
    print(f"\n{title}")
    print(" " * 40 + "".join(f"{name:>22}" for name in next(iter(table.values()))))
    for name, row in table.items():
        print(f"{name:40}" + "".join(f"{value:22.3f}" for value in row.values()))


def main() -> None:
    """Play the trace through every policy."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trace", type=Path, help="JSON lines of at_s, candidates, length")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deadline-ms", type=float, default=50.0)
    parser.add_argument("--measure", action="store_true", help="fit the cost of a run on this machine")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    arguments = parser.parse_args()
    costs = replace(COSTS, run=measured()) if arguments.measure else COSTS
    trace = recorded(arguments.trace) if arguments.trace else generated(arguments.seed, REQUESTS, 1.0)
    most = capacity(trace, costs)
    print(f"{len(trace)} requests, capacity {most:.0f} requests/s")
    at_60 = loaded(at_rate(trace, LOAD * most), costs)
    show("slowdown at 60 % of capacity", at_60)
    pressed = replace(POLICIES[OURS], deadline_s=arguments.deadline_ms / 1e3)
    heavy = at_rate(trace, OVERLOAD * most)
    at_150: dict[str, dict[str, Any]] = {
        OURS: overloaded(heavy, costs, pressed, most=most),
        "the same, nothing is refused": overloaded(heavy, costs, replace(pressed, refusing=False), most=most),
    }
    show(f"150 % of capacity, every deadline {arguments.deadline_ms:g} ms", at_150)
    ours, ideal = at_60[OURS], at_60["ideal: 2 servers, in order"]
    bars = [
        bar("simulated slowdown p99 at 60 %", ours["p99"], "<=", 8.0),
        bar("the same, of the ideal 2-server queue's", ours["p99"] / ideal["p99"], "<=", 3.0),
        bar("simulated goodput at 150 %, of capacity", at_150[OURS]["goodput_of_capacity"], ">=", 0.9),
        bar(
            "simulated p99 of answers at 150 %, of the deadline",
            at_150[OURS]["scored_p99_ms"] / arguments.deadline_ms,
            "<=",
            1.0,
        ),
        bar("simulated p50 of refusals at 150 %, ms", at_150[OURS]["refused_p50_ms"], "<=", 2.0),
    ]
    tables: dict[str, Any] = {"costs": costs.run, "capacity": most, "at_60": at_60, "at_150": at_150}
    finish(tables, bars, as_json=arguments.json)


if __name__ == "__main__":
    main()
