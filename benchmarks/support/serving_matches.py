"""Closed loops: the service's set-ups beside each other, and the best of them against each peer's best."""

import contextlib
import statistics
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.support.closed_loop import Load, Target, closed_loop
from benchmarks.support.peers import Configuration, largest_difference, peer, versions
from benchmarks.support.serving_parts import (
    CONNECTIONS,
    DEFAULT,
    SETUPS,
    UNCONFIRMED,
    Effort,
    Setup,
    loads,
    service,
)
from benchmarks.support.serving_stand import Stand

JUDGED: Final = (4, 16)
"""Connections at which the best set-up is chosen, and at which the bars look."""
CONTESTANTS: Final = 2
"""Of the peer's configurations at each number of `JUDGED`, and of the service's set-ups at both."""
CLOSE: Final = 1e-4
"""Log-odds."""


def closed(stand: Stand, effort: Effort) -> dict[str, Any]:
    """Return what every set-up of the service does at each number of connections."""
    found = {}
    for setup in SETUPS:
        print(f"service: {setup.name}", flush=True)
        with service(stand, setup) as target:
            found[setup.name] = loads(target, effort)
    return {"setups": {name: [load.table() for load in seen] for name, seen in found.items()}}


def fastest(table: Mapping[str, Any]) -> list[str]:
    """Return the set-ups that had the most requests/s at `JUDGED` in a table of `closed`, best first.

    One that may miss what was just written does less than a peer that reads every time: it does not compete.
    """
    rate = {
        name: sum(load["requests_per_s"] for load in seen if load["connections"] in JUDGED)
        for name, seen in table["setups"].items()
        if name != UNCONFIRMED.name
    }
    return sorted(rate, key=lambda name: -rate[name])[:CONTESTANTS]


def match(
    stand: Stand,
    effort: Effort,
    *,
    setups: Sequence[Setup],
    configurations: Sequence[Configuration],
    python: Path,
) -> dict[str, Any]:
    """Try a peer's configurations, then let the best of them and the service's best set-ups alternate.

    At each of `JUDGED` both sides are then represented by whatever was fastest in the median over the same rounds, so
    that an hour in which the machine was slow decides nothing. Fewer connections and more go with the nearest.
    """
    tried: dict[Configuration, dict[int, Load]] = {}
    differences = {}
    with service(stand, DEFAULT) as target:
        for configuration in configurations:
            with peer(stand, python, configuration) as other:
                differences[configuration.name] = largest_difference(target, other)
                print(f"{configuration.peer}: {configuration.name}", flush=True)
                tried[configuration] = {load.connections: load for load in loads(other, effort, JUDGED)}
    fast = {one for number in JUDGED for one in _fastest(tried, differences, number)}
    with contextlib.ExitStack() as stack:
        ours = {one.name: stack.enter_context(service(stand, one)) for one in setups}
        theirs = {one.name: stack.enter_context(peer(stand, python, one)) for one in fast}
        turns = {number: _turns({**ours, **theirs}, number, effort.play_offs, effort) for number in JUDGED}
        best = {
            number: {"service": _best(rounds, ours), "peer": _best(rounds, theirs)}
            for number, rounds in turns.items()
        }
        for number in set(CONNECTIONS) - set(JUDGED):
            chosen = best[_judged(number)]
            sides = {chosen["service"]: ours[chosen["service"]], chosen["peer"]: theirs[chosen["peer"]]}
            turns[number] = _turns(sides, number, effort.rounds, effort)
    return {
        "versions": versions(python),
        "tried": {one.name: [load.table() for load in seen.values()] for one, seen in tried.items()},
        "differences": differences,
        "best": {str(number): chosen for number, chosen in best.items()},
        "play_offs": {
            str(number): [{name: load.table() for name, load in one.items()} for one in turns[number]]
            for number in JUDGED
        },
        "connections": {
            str(number): _compared(
                [{side: one[name] for side, name in best[_judged(number)].items()} for one in turns[number]]
            )
            for number in CONNECTIONS
        },
    }


def _fastest(
    tried: Mapping[Configuration, Mapping[int, Load]], differences: Mapping[str, float], number: int
) -> list[Configuration]:
    """Return the configurations with the most requests/s at a number of connections that give our answers."""
    sound = [one for one in tried if differences[one.name] <= CLOSE and not tried[one][number].failed]
    if not sound:
        raise SystemExit("no configuration of the peer gives the service's answers")
    return sorted(sound, key=lambda one: -tried[one][number].requests_per_s)[:CONTESTANTS]


def _judged(number: int) -> int:
    return JUDGED[0] if number <= JUDGED[0] else JUDGED[1]


def _turns(targets: Mapping[str, Target], number: int, rounds: int, effort: Effort) -> list[dict[str, Load]]:
    """Load all targets in turn, in every other round from the last to the first."""
    names = list(targets)
    turns = []
    for turn in range(rounds):
        order = names if turn % 2 == 0 else names[::-1]
        turns.append(
            {name: closed_loop(targets[name], connections=number, seconds=effort.seconds) for name in order}
        )
    return turns


def _medians(rounds: Sequence[Mapping[str, Load]]) -> dict[str, float]:
    return {name: statistics.median(one[name].requests_per_s for one in rounds) for name in rounds[0]}


def _best(rounds: Sequence[Mapping[str, Load]], names: Collection[str]) -> str:
    """Return the fastest of those that answered everything in these rounds."""
    medians = _medians(rounds)
    sound = [name for name in names if not any(one[name].failed for one in rounds)]
    if not sound:
        raise SystemExit(f"none of {', '.join(names)} answered every request")
    return max(sound, key=lambda name: medians[name])


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
