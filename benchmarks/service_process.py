"""How soon the service is ready, how much memory it takes above its weights, and what it does not import.

The program is started several times on one bundle and store; memory is read after a few hundred requests of the
largest kind. Run: `python benchmarks/service_process.py [--bundle DIR --redis URL] [--json]`; without a bundle a
synthetic one of the demo's shape is made (half a minute).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.serving_latency import Connection, cases
from benchmarks.support.running_service import Prepared, machine, prepared, running

READY_LIMIT_S: Final = 5.0
RSS_LIMIT_MB: Final = 400.0
STARTS: Final = 3
REQUESTS: Final = 300
MB: Final = 1e6


def measure(what: Prepared) -> dict[str, Any]:
    """Start the service once, use it, and return what it took."""
    by_form = cases(what, candidates=100, count=20) | cases_of_size(what, candidates=5000)
    with running(what) as service:
        process = psutil.Process(service.process.pid)
        fresh = process.memory_info().rss
        connection = Connection(service)
        for index in range(REQUESTS):
            for requests in by_form.values():
                connection.post(requests[index % len(requests)].body)
        maps = {Path(mapped.path).name for mapped in process.memory_maps()}
        return {
            "ready_s": service.ready_s,
            "rss_mb": fresh / MB,
            "rss_after_load_mb": process.memory_info().rss / MB,
            "torch_is_loaded": any("torch" in name for name in maps),
        }


def cases_of_size(what: Prepared, *, candidates: int) -> dict[str, Any]:
    """Return the largest requests that the service takes by default."""
    return {"largest": cases(what, candidates=candidates, count=2)["ids"]}


def main() -> None:
    """Measure, print a table, and with --json one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, help="a bundle; by default one is made")
    parser.add_argument("--redis", help="URL of a store that holds the bundle's log")
    parser.add_argument("--json", action="store_true", help="end stdout with one JSON object")
    arguments = parser.parse_args()
    with prepared(arguments.bundle, arguments.redis) as what:
        starts = [measure(what) for _ in range(STARTS)]
        weights_mb = sum(file.stat().st_size for file in what.bundle.glob("model.onnx*")) / MB
    worst = {name: max(start[name] for start in starts) for name in starts[0]}
    above_mb = worst["rss_after_load_mb"] - weights_mb
    bars = [
        _bar("ready, seconds from the start of the process", worst["ready_s"], READY_LIMIT_S),
        _bar("RSS above the weights after load, MB", above_mb, RSS_LIMIT_MB),
        _bar("torch loaded", float(worst["torch_is_loaded"]), 0.0),
    ]
    for bar in bars:
        print(
            f"{bar['name']:48} {bar['value']:9.2f}  limit {bar['limit']:7.2f}  {'ok' if bar['ok'] else 'MISSED'}"
        )
    if arguments.json:
        report = {
            "benchmark": "service_process",
            "machine": machine(),
            "starts": starts,
            "weights_mb": weights_mb,
            "bars": bars,
        }
        print(json.dumps(report))


def _bar(name: str, value: float, limit: float) -> dict[str, Any]:
    return {"name": name, "value": value, "limit": limit, "ok": value <= limit}


if __name__ == "__main__":
    main()
