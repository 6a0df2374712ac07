"""Time and peak memory of `import complete-journey` on the whole wheel, for both samplers of negatives.

Each import runs in a process of its own, on two cores, into a folder that is removed afterwards; the wall time holds
the start of Python and the import of polars. Run: `python benchmarks/import_complete_journey.py [--json]`.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CORES = 2
MAX_WALL_S = 60.0
MAX_PEAK_GB = 3.0
SAMPLERS = ("uniform:20", "popular:20")
EXPECTED = {
    "duplicate_promotions": 12_785,
    "covered_trips": 153_509,
    "trips_with_positive": 87_172,
    "positives": 327_041,
}
"""Counted once, independently, on the raw tables."""
ROOT = Path(__file__).resolve().parents[1]
CHILD = """
import json, sys
from pathlib import Path
from training.importers.complete_journey import import_complete_journey
print(json.dumps(import_complete_journey(None, Path(sys.argv[1]), negatives=sys.argv[2])))
"""


def measure(negatives: str) -> dict[str, object]:
    """Import once; return the counts, wall seconds, CPU seconds and peak resident memory in GB (10^9 bytes)."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(Path(folder) / "log"), negatives],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        output = process.stdout.read()
        # wait4, not wait: the kernel's account of this one child.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.perf_counter() - started
        size = sum(path.stat().st_size for path in (Path(folder) / "log").glob("*"))
    if process.returncode:
        raise SystemExit(f"import --negatives {negatives} failed with {process.returncode}")
    peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "negatives": negatives,
        "wall_s": round(wall_s, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_gb": round(peak_bytes / 1e9, 3),
        "log_mb": round(size / 1e6, 1),
        "counts": json.loads(output),
    }


def bars(result: dict[str, object]) -> list[dict[str, object]]:
    """Hold one result to the limits of time, memory and counts."""
    name, wall_s, peak_gb, counts = (result[key] for key in ("negatives", "wall_s", "peak_gb", "counts"))
    assert isinstance(wall_s, float)
    assert isinstance(peak_gb, float)
    assert isinstance(counts, dict)
    wrong = sum(counts[key] != value for key, value in EXPECTED.items())
    return [
        {"name": f"{name} wall_s", "value": wall_s, "limit": MAX_WALL_S, "ok": wall_s <= MAX_WALL_S},
        {"name": f"{name} peak_gb", "value": peak_gb, "limit": MAX_PEAK_GB, "ok": peak_gb < MAX_PEAK_GB},
        {"name": f"{name} counts that differ", "value": wrong, "limit": 0, "ok": wrong == 0},
    ]


def limit_cores() -> int:
    """Keep this process and its children to CORES cores where the system allows it; return how many they have."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main() -> None:
    """Measure every sampler; print a table, or with `--json` one JSON object as the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    as_json = parser.parse_args().json
    cores = limit_cores()
    results = [measure(negatives) for negatives in SAMPLERS]
    print(f"{'negatives':<12}{'wall s':>8}{'cpu s':>8}{'peak GB':>9}{'log MB':>8}{'impressions':>13}")
    for result in results:
        counts = result["counts"]
        assert isinstance(counts, dict)
        print(
            f"{result['negatives']:<12}{result['wall_s']:>8}{result['cpu_s']:>8}{result['peak_gb']:>9}"
            f"{result['log_mb']:>8}{counts['impressions']:>13,}"
        )
    if as_json:
        all_bars = [bar for result in results for bar in bars(result)]
        machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": cores}
        print(json.dumps({"machine": machine, "imports": results, "bars": all_bars}))


if __name__ == "__main__":
    main()
