"""What keeping requests costs the service: CPU per request, on the event loop and with the thread that writes.

First the parts alone, in this process: answers of 100 scores are handed to the capture as the endpoint does, at about
1,000 a second. Then whole services, one for each setting and two with capture off, asked in turn so that all see the
same machine at the same moment: how far the two that are off differ is what the other differences are uncertain by.
Run:
`python benchmarks/capture_cost.py [--bundle DIR --redis URL] [--json]`; without a bundle a synthetic one of the
demo's shape is made (half a minute).
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
from prometheus_client import CollectorRegistry

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.serving_latency import Connection, cases
from benchmarks.support.bars import bar, finish
from benchmarks.support.running_service import Prepared, Running, prepared, running
from service.api.answered import Answered, Observer
from service.api.state import ServiceState
from service.metrics import STAGES, Metrics
from service.scoring.request import ScoreAnswer, ScoreRequest
from service.settings import CaptureSettings
from service.wiring.capturing import Capture

SETTINGS: Final = {"off": "", "off again": "", "sample of 1 %": "sample = 0.01", "all": "sample = 1.0"}
ANSWERS: Final = 20_000
AT_ONCE: Final = 20
PAUSE_S: Final = 0.02
USERS: Final = 50
WARM_UP: Final = 300
ALL_US: Final = 20.0
LOOP_US: Final = 10.0
SAMPLE_US: Final = 5.0


def parts(folder: Path, *, sample: float) -> dict[str, float]:
    """Return CPU microseconds per answer: of `observe`, on the event loop, and of everything that it leads to."""
    settings = CaptureSettings(path=folder / f"{sample}.jsonl", sample=sample, per_second=0)
    answers = [_answered(number) for number in range(100)]
    idle = _hand_over(answers, lambda _: None)
    capture = Capture(settings, Metrics(CollectorRegistry()), ServiceState())
    found = _hand_over(answers, capture.observe, end=capture.close)
    return {name: found[name] - idle[name] for name in found}


def _hand_over(
    answers: Sequence[Answered], observe: Observer, end: Callable[[], Coroutine[Any, Any, None]] | None = None
) -> dict[str, float]:
    loop_ns = 0
    before_ns = time.process_time_ns()
    for start in range(0, ANSWERS, AT_ONCE):
        began_ns = time.thread_time_ns()
        for number in range(start, start + AT_ONCE):
            observe(answers[number % len(answers)])
        loop_ns += time.thread_time_ns() - began_ns
        time.sleep(PAUSE_S)
    all_ns = time.process_time_ns() - before_ns
    if end is not None:
        before_ns = time.process_time_ns()
        asyncio.run(end())
        all_ns += time.process_time_ns() - before_ns
    return {"loop_us": loop_ns / 1e3 / ANSWERS, "all_us": all_ns / 1e3 / ANSWERS}


def _answered(number: int) -> Answered:
    """Return an answer of 100 scores; of what scored it, only the name is looked at."""
    rng = np.random.default_rng(number)
    ads = [str(ad) for ad in rng.integers(0, 100_000, 100)]
    raw = json.dumps({"user_id": number, "candidates": ads, "context": {"hour": 18, "store": "3"}}).encode()
    answer = ScoreAnswer(
        scores=rng.random(100),
        history_status="hit",
        history_length=1000,
        newest_age_s=3600,
        history_extended=False,
        history_cached=False,
        history_current=False,
        unknown_ads=0,
        stage_s=dict.fromkeys(STAGES, 0.000_123_4),
        tensors={},
    )
    served: Any = SimpleNamespace(name="tin", version="20261123T101500Z-3f2a9c")
    request = ScoreRequest(user_id=number, ad_ids=ads, timestamp=1_514_300_000, deadline_s=float("inf"))
    return Answered(served, raw, b"application/json", request, answer, f"{number:016x}", 0.0012)


def measure(what: Prepared, folder: Path, *, rounds: int, each: int) -> dict[str, list[float]]:
    """Return CPU microseconds per request, one value a round, by setting."""
    bodies = [case.body for case in cases(what, candidates=100, count=USERS)["ids"]]
    found: dict[str, list[float]] = {name: [] for name in SETTINGS}
    with contextlib.ExitStack() as stack:
        services = {
            name: stack.enter_context(running(what, *_arguments(folder, name, text)))
            for name, text in SETTINGS.items()
        }
        connections = {name: Connection(service) for name, service in services.items()}
        for connection in connections.values():
            _ask(connection, bodies, WARM_UP)
        order = Random(0)
        for _ in range(rounds):
            for name, connection in order.sample(list(connections.items()), len(connections)):
                before_ns = cpu_ns(services[name])
                _ask(connection, bodies, each)
                found[name].append((cpu_ns(services[name]) - before_ns) / 1e3 / each)
    return found


def cpu_ns(service: Running) -> int:
    """Return the CPU time of all threads of a service; finer than the ticks of `/proc/PID/stat`."""
    tasks = Path(f"/proc/{service.process.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks)


def _ask(connection: Connection, bodies: Sequence[bytes], count: int) -> None:
    for index in range(count):
        connection.post(bodies[index % len(bodies)])


def _arguments(folder: Path, name: str, text: str) -> list[str]:
    if not text:
        return []
    place = folder / name.replace(" ", "-").replace("%", "percent")
    config = place.with_suffix(".toml")
    config.write_text(f'[capture]\npath = "{place}/capture.jsonl"\nper_second = 0\n{text}\n')
    return ["--config", str(config)]


def _summary(found: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Return the median CPU per request, and that of the differences from `off` round by round."""
    off = np.asarray(found["off"])
    return {
        name: {
            "cpu_us": float(np.median(values)),
            "above_off_us": float(np.median(np.asarray(values) - off)),
            "by_round_us": list(values),
        }
        for name, values in found.items()
    }


def main() -> None:
    """Measure, print a table, and with --json one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, help="a bundle; by default one is made")
    parser.add_argument("--redis", help="URL of a store that holds the bundle's log")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--each", type=int, default=500, help="requests of one service in one round")
    parser.add_argument("--json", action="store_true", help="end stdout with one JSON object")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="longsight-capture-") as name:
        alone = {share: parts(Path(name), sample=share) for share in (0.01, 1.0)}
        with prepared(arguments.bundle, arguments.redis) as what:
            found = measure(what, Path(name), rounds=arguments.rounds, each=arguments.each)
        kept = sum(file.stat().st_size for file in Path(name, "all").glob("*.jsonl*"))
        bytes_each = kept / (WARM_UP + arguments.rounds * arguments.each)
    for share, cost in alone.items():
        print(f"sample {share:g}: {cost['loop_us']:.2f} us on the event loop, {cost['all_us']:.2f} us in all")
    summary = _summary(found)
    for setting, row in summary.items():
        print(f"{setting:16} {row['cpu_us']:8.1f} us CPU per request, {row['above_off_us']:+6.1f} above off")
    print(f"{bytes_each:.0f} bytes per request kept")
    bars = [
        bar("all kept: CPU, us per request", alone[1.0]["all_us"], "<=", ALL_US),
        bar("all kept: CPU on the event loop, us per request", alone[1.0]["loop_us"], "<=", LOOP_US),
        bar("1 % kept: CPU, us per request", alone[0.01]["all_us"], "<=", SAMPLE_US),
    ]
    tables = {"alone": alone, "settings": summary, "bytes_per_request": bytes_each}
    finish(tables, bars, as_json=arguments.json)


if __name__ == "__main__":
    main()
