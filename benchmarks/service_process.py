"""What one service process is: what it has imported, how much memory it holds, how soon it is ready.

Starts `longsight serve` on a bundle and store (given, or made here), scores until its memory has settled, and reads the
process from outside: resident memory above the weights, `torch` among its mapped files, time from start to ready. Run:
`python benchmarks/service_process.py [--json] [--bundle DIR --redis URL]`.
"""

import argparse
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from benchmarks.support.bars import bar, finish
from benchmarks.support.running_service import Prepared, Running, prepared, running
from contract.bundle import Bundle
from contract.request import RawRequest

STARTS: Final = 5
REQUESTS: Final = 2000
HEAVY: Final = ("torch", "pandas", "pyarrow", "onnx", "onnxscript")


def heavy_libraries(mapped: Iterable[str]) -> list[str]:
    """Return which of `HEAVY` a process has mapped into memory."""
    folders = {part for path in mapped for part in Path(path).parts}
    return [name for name in HEAVY if name in folders]


def score(service: Running, bundle: Bundle) -> None:
    """Send the bundle's golden requests over and over, so that every buffer has its size."""
    bodies = [_body(golden.raw) for golden in bundle.golden()]
    with httpx.Client(base_url=f"http://{service.host}:{service.port}", timeout=30) as client:
        for index in range(REQUESTS):
            client.post("/score", json=bodies[index % len(bodies)]).raise_for_status()


def _body(raw: RawRequest) -> dict[str, Any]:
    """Return a golden request as its ids: histories, profiles and ads come from the store."""
    candidates = [ad["ad_id"] for ad in raw.ads if ad.get("ad_id") is not None]
    return {
        "user_id": raw.user.get("user_id"),
        "timestamp": raw.timestamp,
        "candidates": candidates or ["none"],
    }


def measure(what: Prepared) -> dict[str, Any]:
    """Return memory in MB (10^6 bytes), seconds until ready (median of several starts), heavy libraries."""
    bundle = Bundle.open(what.bundle)
    ready = []
    for _ in range(STARTS):
        with running(what) as service:
            ready.append(service.ready_s)
    with running(what) as service:
        process = psutil.Process(service.process.pid)
        score(service, bundle)
        rss = process.memory_info().rss
        libraries = heavy_libraries(each.path for each in process.memory_maps())
    weights = (what.bundle / "model.onnx.data").stat().st_size
    return {
        "rss_mb": rss / 1e6,
        "weights_mb": weights / 1e6,
        "ready_s": statistics.median(ready),
        "slowest_ready_s": max(ready),
        "heavy_libraries": libraries,
    }


def main() -> None:
    """Measure; print the bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--bundle", type=Path, help="with --redis: a bundle folder")
    parser.add_argument("--redis", help="with --bundle: a store that holds its histories and ads")
    given = parser.parse_args()
    with prepared(given.bundle, given.redis) as what:
        found = measure(what)
    print(json.dumps(found, indent=2))
    bars = [
        bar("resident memory above the weights, MB", found["rss_mb"] - found["weights_mb"], "<=", 400),
        bar("start to ready, seconds (slowest)", found["slowest_ready_s"], "<=", 5),
        bar("libraries of training in the process", len(found["heavy_libraries"]), "<=", 0),
    ]
    finish({"process": found}, bars, as_json=given.json)


if __name__ == "__main__":
    main()
