"""The service against its own graph: called bare from two threads, and called with one row per candidate.

U requests, N candidates, L behaviours.
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from benchmarks.serving_latency import cases
from benchmarks.support.closed_loop import Target, closed_loop
from benchmarks.support.score_traffic import CANDIDATES
from benchmarks.support.serving_parts import DEFAULT, WORKERS, Effort, Setup, service
from benchmarks.support.serving_stand import Stand
from contract.encoder import Tensors
from service.runtime.graph import Graph

THREADS: Final = 2
MODELS: Final = ("tin", "din", "diffumin")
CONNECTIONS: Final = (4, 16)
REQUESTS: Final = 16
"""Different requests that the bare graph is called with in turn."""


def bare(stand: Stand, effort: Effort, best: Setup) -> dict[str, Any]:
    """Return requests/s of the service and runs/s of bare sessions, in turn, and their median ratios, by model."""
    found = {}
    for model in MODELS:
        setups = tuple(dict.fromkeys((DEFAULT, WORKERS, best)))
        graph = Graph(stand.bundle(model) / "model.onnx")
        inputs = _requests(stand, model)
        found[model] = _against(stand, effort, setups, runner=_Runs(graph, inputs), model=model)
    return found


def rows(stand: Stand, effort: Effort, best: Setup) -> dict[str, Any]:
    """Return the same for TIN, where bare sessions are given every candidate as a row with its own history."""
    graph = Graph(stand.bundle("tin") / "model.onnx")
    inputs = [row_per_candidate(one) for one in _requests(stand, "tin")[:4]]
    logit_UN = graph.run(_requests(stand, "tin")[0])
    logit_NU = graph.run(inputs[0])
    found = _against(stand, effort, (best,), runner=_Runs(graph, inputs), model="tin")
    return {**found, "largest_difference": float(np.abs(logit_UN[0] - logit_NU[:, 0]).max())}


def row_per_candidate(tensors: Tensors) -> Tensors:
    """Return one request as N requests of one candidate each, with N copies of the history."""
    return {
        name: value.T.copy() if name.startswith(("ad_", "context_")) else value.repeat(CANDIDATES, axis=0)
        for name, value in tensors.items()
    }


def _requests(stand: Stand, model: str) -> list[Tensors]:
    found = cases(stand.prepared(model), candidates=CANDIDATES, count=REQUESTS)["ids"]
    return [case.tensors for case in found]


class _Runs:
    """Calls of a graph from two threads at once, as fast as they go."""

    def __init__(self, graph: Graph, inputs: Sequence[Tensors]) -> None:
        self._graph = graph
        self._inputs = [{name: one[name] for name in graph.inputs} for one in inputs]
        self.cpu_us = 0.0

    def per_second(self, seconds: float) -> float:
        """Return how many runs per second both threads make together; notes the processor time of a run."""
        spent = time.process_time()
        until = time.perf_counter() + seconds
        counts = [0] * THREADS
        ended = [0.0] * THREADS
        threads = [
            threading.Thread(target=self._run, args=(index, until, counts, ended)) for index in range(THREADS)
        ]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.cpu_us = 1e6 * (time.process_time() - spent) / sum(counts)
        return sum(count / (end - started) for count, end in zip(counts, ended, strict=True))

    def _run(self, index: int, until: float, counts: list[int], ended: list[float]) -> None:
        for inputs in itertools.cycle(self._inputs[index:] + self._inputs[:index]):
            self._graph.run(inputs)
            counts[index] += 1
            ended[index] = time.perf_counter()
            if ended[index] >= until:
                return


def _against(
    stand: Stand, effort: Effort, setups: Sequence[Setup], *, runner: _Runs, model: str
) -> dict[str, Any]:
    """Measure runs and services in turn; ratios are medians over the rounds."""
    with contextlib.ExitStack() as stack:
        targets = {setup.name: stack.enter_context(service(stand, setup, bundle=model)) for setup in setups}
        cpu_us: dict[str, list[float]] = {"graph": []}

        def graph() -> float:
            rate = runner.per_second(effort.seconds)
            cpu_us["graph"].append(runner.cpu_us)
            return rate

        things: dict[str, Callable[[], float]] = {"graph": graph}
        for name, connections in itertools.product(targets, CONNECTIONS):
            title = f"{name}, {connections} connections"
            cpu_us[title] = []
            things[title] = _rate(targets[name], connections, effort.seconds, cpu_us[title])
        runner.per_second(1.0)
        rounds = [{name: measure() for name, measure in things.items()} for _ in range(effort.rounds)]
    found = {
        **_ratios(rounds),
        "cpu_us": {name: float(np.median(values)) for name, values in cpu_us.items()},
    }
    for name, ratio in found["ratios"].items():
        spent = f"CPU us {found['cpu_us'][name]:.0f} of which the graph alone {found['cpu_us']['graph']:.0f}"
        print(f"{model}: {name}: {ratio:.3f} of {found['per_s']['graph']:.0f} runs/s; {spent}", flush=True)
    return found


def _rate(target: Target, connections: int, seconds: float, cpu_us: list[float]) -> Callable[[], float]:
    """Return what measures requests/s and notes the processor time of a request, generator and store included."""

    def measure() -> float:
        load = closed_loop(target, connections=connections, seconds=seconds)
        cpu_us.append(sum(load.cpu_us.values()))
        return load.requests_per_s

    return measure


def _ratios(rounds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    names = [name for name in rounds[0] if name != "graph"]
    return {
        "rounds": list(rounds),
        "per_s": {name: float(np.median([one[name] for one in rounds])) for name in rounds[0]},
        "ratios": {name: float(np.median([one[name] / one["graph"] for one in rounds])) for name in names},
    }
