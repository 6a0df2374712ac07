"""Closed loops: the service's set-ups beside each other, and the best of them against each peer's best."""

import contextlib
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.support.closed_loop import Load, Target, closed_loop
from benchmarks.support.peers import Configuration, largest_difference, peer, versions
from benchmarks.support.serving_parts import CONNECTIONS, DEFAULT, SETUPS, Effort, Setup, loads, service
from benchmarks.support.serving_stand import Stand

JUDGED: Final = (4, 16)
"""Connections at which the best set-up is chosen, and at which the bars look."""
CLOSE: Final = 1e-4
"""Log-odds."""


def closed(stand: Stand, effort: Effort) -> dict[str, Any]:
    """Return what every set-up of the service does at each number of connections, and which is the fastest."""
    found = {}
    for setup in SETUPS:
        print(f"service: {setup.name}", flush=True)
        with service(stand, setup) as target:
            found[setup.name] = loads(target, effort)
    rate = {name: _judged_rate(seen) for name, seen in found.items()}
    return {
        "setups": {name: [load.table() for load in seen] for name, seen in found.items()},
        "best": max(rate, key=lambda name: rate[name]),
    }


def match(
    stand: Stand, effort: Effort, *, best: Setup, configurations: Sequence[Configuration], python: Path
) -> dict[str, Any]:
    """Try a peer's configurations, then let its best and the service's best alternate.

    The peer may have another configuration for few connections (up to 4) than for many; the service keeps its one.
    """
    tried: dict[Configuration, dict[int, Load]] = {}
    differences = {}
    with service(stand, DEFAULT) as target:
        for configuration in configurations:
            with peer(stand, python, configuration) as other:
                differences[configuration.name] = largest_difference(target, other)
                print(f"{configuration.peer}: {configuration.name}", flush=True)
                tried[configuration] = {load.connections: load for load in loads(other, effort, JUDGED)}
    fastest = {number: _fastest(tried, differences, number) for number in JUDGED}
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(service(stand, best))
        theirs = {one: stack.enter_context(peer(stand, python, one)) for one in set(fastest.values())}
        sides = {
            number: {"service": ours, "peer": theirs[fastest[_judged(number)]]} for number in CONNECTIONS
        }
        turns = _turns(sides, effort)
    return {
        "versions": versions(python),
        "tried": {one.name: [load.table() for load in seen.values()] for one, seen in tried.items()},
        "differences": differences,
        "best": {"service": best.name, "peer": {number: one.name for number, one in fastest.items()}},
        "connections": {str(number): _compared(rounds) for number, rounds in turns.items()},
    }


def _fastest(
    tried: Mapping[Configuration, Mapping[int, Load]], differences: Mapping[str, float], number: int
) -> Configuration:
    """Return the configuration with the most requests/s at a number of connections that gives our answers."""
    sound = [one for one in tried if differences[one.name] <= CLOSE and not tried[one][number].failed]
    if not sound:
        raise SystemExit("no configuration of the peer gives the service's answers")
    return max(sound, key=lambda one: tried[one][number].requests_per_s)


def _judged(number: int) -> int:
    return JUDGED[0] if number <= JUDGED[0] else JUDGED[1]


def _turns(sides: Mapping[int, Mapping[str, Target]], effort: Effort) -> dict[int, list[dict[str, Load]]]:
    turns: dict[int, list[dict[str, Load]]] = {number: [] for number in sides}
    for _ in range(effort.rounds):
        for number, targets in sides.items():
            turns[number].append(
                {
                    name: closed_loop(target, connections=number, seconds=effort.seconds)
                    for name, target in targets.items()
                }
            )
    return turns


def _compared(rounds: Sequence[Mapping[str, Load]]) -> dict[str, Any]:
    """Return medians over the rounds: of both sides, and of the ratios within each round.

    Rounds in which a side answered nothing at all have no ratios: they are counted as `silent`.
    """
    spoken = [one for one in rounds if all(load.requests_per_s for load in one.values())]
    silent, rounds = len(rounds) - len(spoken), spoken
    if not rounds:
        return {"silent": silent}
    found: dict[str, Any] = {
        name: {
            "requests_per_s": statistics.median(one[name].requests_per_s for one in rounds),
            "p50_ms": statistics.median(one[name].p50_ms for one in rounds),
            "p99_ms": statistics.median(one[name].p99_ms for one in rounds),
            "cpu_us": statistics.median(one[name].cpu_us["service"] for one in rounds),
            "failed": sum(one[name].failed for one in rounds),
        }
        for name in rounds[0]
    }
    return {
        **found,
        "silent": silent,
        "rate_ratio": statistics.median(
            one["service"].requests_per_s / one["peer"].requests_per_s for one in rounds
        ),
        "p99_ratio": statistics.median(one["service"].p99_ms / one["peer"].p99_ms for one in rounds),
        "cpu_ratio": statistics.median(
            one["peer"].cpu_us["service"] / one["service"].cpu_us["service"] for one in rounds
        ),
    }


def _judged_rate(seen: Sequence[Load]) -> float:
    return sum(load.requests_per_s for load in seen if load.connections in JUDGED)
