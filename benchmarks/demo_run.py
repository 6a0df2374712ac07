"""The demo from an empty folder to a scored answer: wall time, and peak memory of all its processes together.

Everything is installed beforehand; the folder is removed afterwards. Run: `python benchmarks/demo_run.py [--json]`.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import psutil

from benchmarks.support.bars import bar, finish
from benchmarks.support.running_service import free_port

ROOT: Final = Path(__file__).resolve().parents[1]
POLL_S: Final = 0.2
MAX_S: Final = 360.0
MAX_GB: Final = 4.0


def resident_bytes(process: psutil.Process) -> int:
    """Return the resident memory of a process and all its descendants."""
    total = 0
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += each.memory_info().rss
    return total


def measure(model: str) -> tuple[float, float]:
    """Run `longsight demo --once` in a new folder; returns seconds and peak GB (10^9 bytes)."""
    with tempfile.TemporaryDirectory(prefix="longsight-demo-") as folder:
        command = [
            sys.executable,
            "-m",
            "cli",
            "demo",
            "--once",
            "--model",
            model,
            "--port",
            str(free_port()),
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        started = time.perf_counter()
        process = psutil.Popen(command, cwd=folder, env=environment, stdout=sys.stderr)
        peak = 0
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                peak = max(peak, resident_bytes(process))
            with contextlib.suppress(subprocess.TimeoutExpired, psutil.TimeoutExpired):
                process.wait(POLL_S)
        if process.returncode:
            raise SystemExit(f"longsight demo ended with {process.returncode}")
        return time.perf_counter() - started, peak / 1e9


def main() -> None:
    """Measure the demo; print the bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--model", default="tin", help="which model")
    given = parser.parse_args()
    seconds, gigabytes = measure(given.model)
    bars = [
        bar("demo from nothing to exit, seconds", seconds, "<=", MAX_S),
        bar("demo, peak memory of all processes, GB", gigabytes, "<", MAX_GB),
    ]
    finish(
        {"demo": {"model": given.model, "seconds": seconds, "peak_gb": gigabytes}}, bars, as_json=given.json
    )


if __name__ == "__main__":
    main()
