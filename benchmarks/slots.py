"""Slots under load: what callers notice of a change, whether memory stays flat, what the shadow costs the champion.

Changes: two workers, callers who ask again and again, and the champion goes to and fro between two bundles of other
weights (TIN, L = 1000, N = 100). Every answer is held to the scores of the version that it names, asked beforehand.
Memory is that of each worker after every change, once the old bundle is closed (RSS, and PSS, which counts shared pages
once); flat is judged by the straight line through them, the first few left out.

Shadow: open-loop Poisson at half of what one worker can do in a closed loop; the shadow is put in and taken out again
and again within one run, so that both see the same machine. Run: `python benchmarks/slots.py [--quick] [--json]`;
log, bundles and store are made once and kept below `.longsight/benchmarks`.
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
from benchmarks.support.running_service import ROOT, Prepared, Running, longsight, running
from benchmarks.support.score_traffic import zipf_requests
from benchmarks.support.serving_stand import MODELS, WIDTH, Stand, stand
from benchmarks.support.slot_callers import TOKEN, Seen, callers, change, expected_scores

BODIES: Final = 40
SETTLED: Final = 5  # changes after which memory is looked at
CLOSED_S: Final = 1.0  # after a change: the old bundle is closed, its memory given back
MB: Final = 1e6

CHANGES: Final = 20
BLOCKS: Final = 16
BLOCK_S: Final = 5.0


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


def shadow_price(what: Prepared, name: str, users: int, *, blocks: int) -> dict[str, Any]:
    """Return the champion's p50 at half load with and without a shadow, in turns."""
    bodies = [one.json() for one in zipf_requests(users, count=BODIES)]
    rng = np.random.default_rng(3)
    refused = 0
    by_state: dict[str, list[NDArray[np.float64]]] = {"with": [], "without": []}
    with running(what, "--workers", "1") as service:
        capacity = _capacity(service, bodies)
        order = [state for _ in range(blocks // 4) for state in ("with", "without", "without", "with")]
        for state in order:
            change(service, "shadow", {"bundle": name if state == "with" else None})
            time.sleep(CLOSED_S)
            due_s = np.cumsum(rng.exponential(2 / capacity, round(capacity / 2 * BLOCK_S)))
            chosen = [bodies[index] for index in rng.integers(0, len(bodies), len(due_s))]
            seen = OpenLoop(f"http://{service.host}:{service.port}/score", due_s=due_s, bodies=chosen).run()
            answered = seen.status == 200
            refused += int((~answered).sum())  # of a machine that has other work to do
            by_state[state].append(1e3 * seen.answer_s[answered])
            print(f"{state:8} p50 {np.median(by_state[state][-1]):.3f} ms", flush=True)
        shadow = _shadow_counts(service)
    p50_ms = {state: [float(np.median(block)) for block in taken] for state, taken in by_state.items()}
    pooled = {state: np.concatenate(taken) for state, taken in by_state.items()}
    return {
        "capacity_per_s": capacity,
        "p50_ms_by_block": p50_ms,
        "p50_ratio": float(np.median(pooled["with"]) / np.median(pooled["without"])),
        "p99_ratio": float(np.percentile(pooled["with"], 99) / np.percentile(pooled["without"], 99)),
        "refused": refused,
        "requests": shadow,
    }


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
    parser.add_argument("--quick", action="store_true", help="fewer users, changes and blocks")
    parser.add_argument("--json", action="store_true", help="end stdout with one JSON object")
    arguments = parser.parse_args()
    os.environ["LONGSIGHT_AUTH__ADMIN_TOKEN"] = TOKEN
    os.environ["LONGSIGHT_REDIS__READ_TIMEOUT_S"] = "2"  # a late history is no failure of a change
    with stand(arguments.folder, quick=arguments.quick) as kept:
        what, other = kept.prepared("tin"), other_weights(kept)
        names, users = (what.bundle.name, other.name), kept.sizes.users
        os.environ["LONGSIGHT_MODELS__STATE_DIR"] = str(kept.folder / "slots")
        changed = changes(what, names, users, count=6 if arguments.quick else CHANGES)
        shadow = shadow_price(what, other.name, users, blocks=4 if arguments.quick else BLOCKS)
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
