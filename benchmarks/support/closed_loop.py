"""Closed-loop load: so many connections, each asking again once it is answered. The generator is wrk, which is C.

wrk is a package of the system (`apt-get install wrk`); it costs some 30 us of a processor for each request, and on two
cores that it shares with the service, whatever the generator takes is missing to the service.
"""

import json
import resource
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.support.cpu_time import cpu_seconds_of

SCRIPT: Final = Path(__file__).with_name("replay_bodies.lua")


@dataclass(frozen=True)
class Load:
    """What one run of the generator saw."""

    connections: int
    requests_per_s: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    failed: int
    """Answers other than 2xx or 3xx, and connections that broke."""
    cpu_us: dict[str, float]
    """Processor time per request: by process, and of the generator."""

    def table(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    def line(self) -> str:
        """Return it as one line of text."""
        cpu = ", ".join(f"{name} {value:.0f}" for name, value in self.cpu_us.items())
        return (
            f"{self.connections:4} connections {self.requests_per_s:8.0f} req/s  p50 {self.p50_ms:7.2f}  "
            f"p99 {self.p99_ms:7.2f} ms  failed {self.failed}  CPU us per request: {cpu}"
        )


@dataclass(frozen=True)
class Target:
    """Where requests go, and which processes work for it (name -> id; children count as well)."""

    url: str
    bodies: Path
    processes: Mapping[str, int]
    content_type: str = "application/json"


def require_wrk() -> str:
    """Return the program; SystemExit says how to get it."""
    found = shutil.which("wrk")
    if found is None:
        raise SystemExit("this benchmark needs the load generator wrk: apt-get install wrk")
    return found


def closed_loop(target: Target, *, connections: int, seconds: float, warm_up_s: float = 1.0) -> Load:
    """Load a target for some seconds, after a warm-up that isn't counted."""
    if warm_up_s:
        _wrk(target, connections=connections, seconds=warm_up_s)
    before = cpu_seconds_of(target.processes)
    generator = resource.getrusage(resource.RUSAGE_CHILDREN)
    seen = _wrk(target, connections=connections, seconds=seconds)
    after = cpu_seconds_of(target.processes)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    count = max(1, seen["requests"])
    spent = {name: after[name] - before[name] for name in after}
    spent["generator"] = (used.ru_utime + used.ru_stime) - (generator.ru_utime + generator.ru_stime)
    return Load(
        connections=connections,
        requests_per_s=(seen["requests"] - seen["refused"]) / (seen["duration_us"] / 1e6),
        **{f"{name}_ms": seen[f"{name}_us"] / 1e3 for name in ("mean", "p50", "p90", "p99", "max")},
        failed=seen["refused"] + seen["broken"],
        cpu_us={name: 1e6 * value / count for name, value in spent.items()},
    )


def _wrk(target: Target, *, connections: int, seconds: float) -> dict[str, Any]:
    command = [require_wrk(), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(SCRIPT)]
    arguments = [target.url, "--", str(target.bodies), target.content_type]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        raise SystemExit(f"wrk on {target.url} failed: {done.stderr.strip() or done.stdout.strip()}")
    seen: dict[str, Any] = json.loads(lines[-1])
    return seen
