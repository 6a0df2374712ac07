"""Open loops: Poisson traffic of all sizes at 60 % of what the service can do, and at 150 % with a deadline."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.closed_loop import Target, closed_loop
from benchmarks.support.open_loop import OpenLoop, Seen, one_by_one
from benchmarks.support.running_service import running
from benchmarks.support.score_traffic import Asked, write_bodies
from benchmarks.support.serving_parts import DEFAULT, WORKERS, Effort, Setup
from benchmarks.support.serving_stand import Stand
from benchmarks.support.serving_trace import Trace, ideal_response_s, mixed_requests, poisson

BUNDLE: Final = "tin-5000"
LIGHT: Final = 0.6
HEAVY: Final = 1.5
DEADLINE_MS: Final = 50
PASSES: Final = 3
CONNECTIONS: Final = 16
MS: Final = 1e3


def open_loops(stand: Stand, effort: Effort) -> dict[str, Any]:
    """Return both loops for the service with one process and with two."""
    asked = mixed_requests(stand)
    return {setup.name: _of(stand, effort, setup, asked) for setup in (DEFAULT, WORKERS)}


def _of(stand: Stand, effort: Effort, setup: Setup, asked: Sequence[Asked]) -> dict[str, Any]:
    plain = [one.json() for one in asked]
    hurried = [one.json(deadline_ms=DEADLINE_MS) for one in asked]
    path = write_bodies(stand.folder / "bodies" / "mixed", plain)
    with running(stand.prepared(BUNDLE), *setup.arguments, environment=setup.environment) as ready:
        url = f"http://{ready.host}:{ready.port}/score"
        target = Target(url, path, {"service": ready.process.pid, "store": stand.store_pid})
        rounds = []
        for seed in range(effort.rounds):
            alone_s = one_by_one(url, plain, passes=PASSES)
            capacity = closed_loop(target, connections=CONNECTIONS, seconds=effort.seconds).requests_per_s
            rounds.append(
                {
                    "capacity": capacity,
                    "alone_mean_ms": float(alone_s.mean()) * MS,
                    "light": _light(url, plain, alone_s, rate=LIGHT * capacity, effort=effort, seed=seed),
                    "heavy": _heavy(url, hurried, capacity=capacity, effort=effort, seed=seed),
                }
            )
            print(f"{setup.name}: {rounds[-1]}", flush=True)
    return {"rounds": rounds, "median": _median(rounds)}


def _light(
    url: str,
    bodies: Sequence[bytes],
    alone_s: NDArray[np.float64],
    *,
    rate: float,
    effort: Effort,
    seed: int,
) -> dict[str, float]:
    """Return slowdowns (response over that of the same request when nothing else is asked) and the ideal ones."""
    trace = poisson(rate, seconds=4 * effort.seconds, seed=seed)
    seen = _run(url, bodies, trace)
    own_s = alone_s[trace.index]
    good = seen.status == 200
    slowdown = np.where(good, seen.response_s / own_s, np.inf)
    ideal = ideal_response_s(trace.due_s, own_s) / own_s
    p99, ideal_p99 = float(np.percentile(slowdown, 99)), float(np.percentile(ideal, 99))
    return {
        "rate": rate,
        "requests": len(trace.due_s),
        "failed": int((~good).sum()),
        "slowdown_p50": float(np.percentile(slowdown, 50)),
        "slowdown_p99": p99,
        "ideal_p50": float(np.percentile(ideal, 50)),
        "ideal_p99": ideal_p99,
        "over_ideal": p99 / ideal_p99,
        "response_p50_ms": float(np.nanpercentile(seen.response_s, 50)) * MS,
        "response_p99_ms": float(np.nanpercentile(seen.response_s, 99)) * MS,
        "sent_late_p99_ms": float(np.nanpercentile(seen.sent_s - seen.due_s, 99)) * MS,
    }


def _heavy(
    url: str, bodies: Sequence[bytes], *, capacity: float, effort: Effort, seed: int
) -> dict[str, float | None]:
    """Return what is answered in time and how soon the rest is refused."""
    trace = poisson(HEAVY * capacity, seconds=2 * effort.seconds, seed=1000 + seed)
    seen = _run(url, bodies, trace)
    accepted = seen.status == 200
    refused = np.isin(seen.status, (429, 503, 504))
    in_time = accepted & (seen.response_s * MS <= DEADLINE_MS)
    spent_s = float(np.nanmax(seen.done_s))
    return {
        "rate": HEAVY * capacity,
        "accepted": int(accepted.sum()),
        "refused_429": int((seen.status == 429).sum()),
        "late_504": int((seen.status == 504).sum()),
        "failed": int((~accepted & ~refused).sum()),
        "goodput": float(in_time.sum()) / spent_s / capacity,
        "accepted_p99_ms": _percentile(seen.response_s[accepted], 99),
        "accepted_from_sending_p99_ms": _percentile(seen.answer_s[accepted], 99),
        "refusal_p50_ms": _percentile(seen.answer_s[refused], 50),
        "sent_late_p99_ms": _percentile(seen.sent_s - seen.due_s, 99),
    }


def _run(url: str, bodies: Sequence[bytes], trace: Trace) -> Seen:
    return OpenLoop(url, due_s=trace.due_s, bodies=[bodies[index] for index in trace.index.tolist()]).run()


def _percentile(values: NDArray[np.float64], percent: float) -> float | None:
    return float(np.nanpercentile(values, percent)) * MS if len(values) else None


def _median(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of every figure over the rounds; one that a round lacks is None."""
    found: dict[str, Any] = {}
    for name, first in rounds[0].items():
        values = [one[name] for one in rounds]
        if isinstance(first, dict):
            found[name] = _median(values)
        else:
            found[name] = None if None in values else float(np.median(values))
    return found
