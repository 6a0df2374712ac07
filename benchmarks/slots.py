"""Slots under load: what callers notice of a change, whether memory stays flat, what the shadow costs the champion.

Changes: two workers, callers who ask again and again, and the champion goes to and fro between two bundles of other
weights (TIN, L = 1000, N = 100). Every answer is held to the scores of the version that it names, asked beforehand.
Memory is that of each worker after every change, once the old bundle is closed (RSS, and PSS, which counts shared pages
once); flat is judged by the straight line through them, the first few left out.

Shadow: open-loop Poisson at half of what one worker can do in a closed loop, in pairs of a second with the shadow and a
second without, in either order, so that both see the same machine; told is the median of the pairs' ratios of p50.

Run: `python benchmarks/slots.py [--quick] [--json]`; log, bundles and store are made once and kept below
`.longsight/benchmarks`.
"""

import argparse
import contextlib
import http.client
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.bars import bar, finish
from benchmarks.support.open_loop import OpenLoop
from benchmarks.support.open_loop import Seen as Answers
from benchmarks.support.running_service import ROOT, Prepared, Running, longsight, running
from benchmarks.support.score_traffic import zipf_requests
from benchmarks.support.serving_stand import MODELS, WIDTH, Stand, stand
from benchmarks.support.slot_callers import TOKEN, Seen, callers, change, expected_scores

BODIES: Final = 40
SETTLED: Final = 5  # changes after which memory is looked at
CLOSED_S: Final = 1.0  # after a change: the old bundle is closed, its memory given back
MB: Final = 1e6

CHANGES: Final = 20
PAIRS: Final = 120
BLOCK_S: Final = 1.0


# ---------------------------------------------------------------- changes under load


def changes(what: Prepared, names: Sequence[str], users: int, *, count: int) -> dict[str, Any]:
    """Change the champion `count` times under load with two workers."""
    bodies = [one.json() for one in zipf_requests(users, count=BODIES)]
    with running(what, "--workers", "2") as service:
        expected = expected_scores(service, names, bodies)
        workers = psutil.Process(service.process.pid).children()
        seen = Seen()
        took: list[tuple[float, float]] = []
        memory: list[dict[str, list[float]]] = []
        with callers(service, bodies, expected, seen):
            time.sleep(3)
            for turn in range(count):
                began = time.perf_counter()
                took.append((began, change(service, "champion", {"bundle": names[(turn + 1) % 2]})))
                time.sleep(CLOSED_S)
                memory.append(_memory(workers))
                print(f"change {turn + 1}: {took[-1][1]:.2f} s, RSS {memory[-1]['rss_mb']}", flush=True)
            time.sleep(2)
    return _changes_table(seen, took, memory)


def _changes_table(
    seen: Seen, took: Sequence[tuple[float, float]], memory: Sequence[Mapping[str, list[float]]]
) -> dict[str, Any]:
    moments = np.array(seen.moments)
    during = np.zeros(len(moments), dtype=bool)
    for began, seconds in took:
        during |= (moments[:, 0] + moments[:, 1] > began) & (moments[:, 0] < began + seconds + 0.2)
    latency_ms = 1e3 * moments[:, 1]
    slopes = {name: _slopes([one[name] for one in memory]) for name in ("rss_mb", "pss_mb")}
    return {
        "changes": len(took),
        "answers": len(moments),
        "answers_during_changes": int(during.sum()),
        "failed": seen.failed,
        "mixed": seen.mixed,
        "change_s": {"median": float(np.median([s for _, s in took])), "longest": max(s for _, s in took)},
        "latency_ms": {
            name: {str(q): float(np.percentile(latency_ms[where], q)) for q in (50, 99, 100)}
            for name, where in (("during", during), ("between", ~during))
        },
        "memory": list(memory),
        "mb_per_change": slopes,
    }


def _memory(workers: Sequence[psutil.Process]) -> dict[str, list[float]]:
    full = [worker.memory_full_info() for worker in workers]
    return {
        "rss_mb": [round(one.rss / MB, 1) for one in full],
        "pss_mb": [round(one.pss / MB, 1) for one in full],
    }


def _slopes(by_change: Sequence[Sequence[float]]) -> list[float]:
    """Return MB per change of each worker: the straight line through all but the first few."""
    values = np.array(by_change[min(SETTLED, len(by_change) // 2) :])
    return [float(np.polyfit(np.arange(len(values)), column, 1)[0]) for column in values.T]


# ---------------------------------------------------------------- the shadow's price


def shadow_price(what: Prepared, name: str, users: int, *, pairs: int) -> dict[str, Any]:
    """Return the champion's p50 at half load with and without a shadow, in adjacent blocks of either order."""
    bodies = [one.json() for one in zipf_requests(users, count=BODIES)]
    rng = np.random.default_rng(3)
    taken: dict[str, list[NDArray[np.float64]]] = {"with": [], "without": []}
    refused = 0
    with running(what, "--workers", "1") as service:
        # also held by a slot that answers nobody, so that it stays open while the shadow comes and goes
        change(service, "challenger", {"bundle": name, "share": 0})
        capacity = _capacity(service, bodies)
        for pair in range(pairs):
            for state in rng.permutation(["with", "without"]).tolist():
                change(service, "shadow", {"bundle": name if state == "with" else None})
                seen = _half_load(service, bodies, rng, capacity)
                answered = seen.status == 200
                refused += int((~answered).sum())  # of a machine that has other work to do
                taken[state].append(1e3 * seen.answer_s[answered])
            if pair % 20 == 0:
                print(
                    f"pair {pair}:", {state: round(float(np.median(t[-1])), 3) for state, t in taken.items()}
                )
        shadow = _shadow_counts(service)
    ratio = {q: _ratios(taken, q) for q in (50, 99)}
    low, high = np.percentile(_resampled(ratio[50], rng), [2.5, 97.5])
    return {
        "capacity_per_s": capacity,
        "pairs": pairs,
        "p50_ms": {state: float(np.median([np.median(block) for block in t])) for state, t in taken.items()},
        "p50_ratio": float(np.median(ratio[50])),
        "p50_ratio_95": [float(low), float(high)],
        "p99_ratio": float(np.median(ratio[99])),
        "refused": refused,
        "requests": shadow,
    }


def _half_load(
    service: Running, bodies: Sequence[bytes], rng: np.random.Generator, capacity: float
) -> Answers:
    due_s = np.cumsum(rng.exponential(2 / capacity, round(capacity / 2 * BLOCK_S)))
    chosen = [bodies[index] for index in rng.integers(0, len(bodies), len(due_s))]
    return OpenLoop(f"http://{service.host}:{service.port}/score", due_s=due_s, bodies=chosen).run()


def _ratios(taken: Mapping[str, Sequence[NDArray[np.float64]]], percent: int) -> NDArray[np.float64]:
    """Return with / without of each pair."""
    at = {state: np.array([np.percentile(block, percent) for block in t]) for state, t in taken.items()}
    ratios: NDArray[np.float64] = at["with"] / at["without"]
    return ratios


def _resampled(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return medians of samples drawn from the values, with replacement."""
    medians: NDArray[np.float64] = np.median(rng.choice(values, (2000, len(values))), axis=1)
    return medians


def _capacity(service: Running, bodies: Sequence[bytes]) -> float:
    """Return requests per second of a closed loop."""
    seen = Seen()
    with callers(service, bodies, None, seen):
        time.sleep(2)
        before = len(seen.moments)
        time.sleep(4)
        return (len(seen.moments) - before) / 4


def _shadow_counts(service: Running) -> dict[str, float]:
    connection = http.client.HTTPConnection(service.host, service.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    return {
        line.split('"')[1]: float(line.split()[-1])
        for line in lines
        if line.startswith("longsight_shadow_total{")
    }


def other_weights(kept: Stand) -> Path:
    """Return a bundle of the same model, dataset and settings with another seed; made once."""
    path = kept.folder / "bundles" / "tin-other"
    if not (path / "manifest.json").exists():
        model, settings = MODELS["tin"]
        run = kept.folder / "runs" / "tin-other"
        chosen = {**settings, "epochs": 1, "embedding_width": WIDTH}
        given = [part for key, value in chosen.items() for part in ("--set", f"{key}={value}")]
        longsight("train", kept.folder / "dataset", run, "--model", model, "--seed", "1", *given)
        longsight("export", run, path)
    return path


def main() -> None:
    """Measure, print bars, and with --json one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=ROOT / ".longsight" / "benchmarks" / "serving")
    parser.add_argument("--quick", action="store_true", help="fewer users, changes and pairs")
    parser.add_argument("--json", action="store_true", help="end stdout with one JSON object")
    arguments = parser.parse_args()
    os.environ["LONGSIGHT_AUTH__ADMIN_TOKEN"] = TOKEN
    os.environ["LONGSIGHT_REDIS__READ_TIMEOUT_S"] = "2"  # a late history is no failure of a change
    with stand(arguments.folder, quick=arguments.quick) as kept:
        what, other = kept.prepared("tin"), other_weights(kept)
        names, users = (what.bundle.name, other.name), kept.sizes.users
        os.environ["LONGSIGHT_MODELS__STATE_DIR"] = str(kept.folder / "slots")
        changed = changes(what, names, users, count=6 if arguments.quick else CHANGES)
        shadow = shadow_price(what, other.name, users, pairs=10 if arguments.quick else PAIRS)
    growth = max(changed["mb_per_change"]["rss_mb"])
    bars = [
        bar("answers that failed during changes of the champion, 2 workers", changed["failed"], "<=", 0),
        bar("answers whose scores are not those of their version", changed["mixed"], "<=", 0),
        bar("RSS of a worker, MB per change (flat)", growth, "<=", 0.5),
        bar("champion's p50 at half load, with shadow / without", shadow["p50_ratio"], "<=", 1.02),
    ]
    finish({"benchmark": "slots", "changes": changed, "shadow": shadow}, bars, as_json=arguments.json)


if __name__ == "__main__":
    main()
