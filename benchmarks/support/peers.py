"""mosec and BentoML beside the service: their environment, their configurations, their processes.

Both call what the service calls (`peer_scorer.py`), so what differs is the serving itself. They live in a virtual
environment of their own: BentoML's requirements don't agree with constraints.txt.
"""

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgpack

from benchmarks.support.closed_loop import Target
from benchmarks.support.peer_scorer import BUNDLE, REDIS
from benchmarks.support.running_service import ROOT, free_port
from benchmarks.support.score_traffic import JSON, MSGPACK, Asked, write_bodies, zipf_requests
from benchmarks.support.serving_stand import Stand

READY_S: Final = 90.0
STOP_S: Final = 20.0
TOGETHER: Final = 16
"""Requests asked at once when answers are compared."""
SHARED: Final = (
    "numpy",
    "onnxruntime",
    "redis",
    "hiredis",
    "xxhash",
    "msgpack",
    "orjson",
    "pydantic",
    "uvloop",
)
"""What the service's own modules need there, in the versions of constraints.txt."""


@dataclass(frozen=True)
class Configuration:
    """One way to start a peer."""

    peer: str
    name: str
    environment: dict[str, str] = field(hash=False)
    body: str = JSON


MOSEC: Final = tuple(
    Configuration(
        "mosec",
        f"{workers} workers, {'msgpack' if body == MSGPACK else 'JSON'}, {batching}",
        {
            "WORKERS": str(workers),
            "BATCH": str(batch),
            "WAIT_MS": str(wait_ms),
            "BODY": body.rpartition("/")[2],
        },
        body,
    )
    for workers, body, batch, wait_ms, batching in (
        (1, JSON, 1, 0, "no batches"),
        (2, JSON, 1, 0, "no batches"),
        (4, JSON, 1, 0, "no batches"),
        (2, MSGPACK, 1, 0, "no batches"),
        (1, JSON, 8, 1, "batches of 8 within 1 ms"),
        (2, JSON, 4, 1, "batches of 4 within 1 ms"),
        (2, JSON, 8, 1, "batches of 8 within 1 ms"),
    )
)
BENTOML: Final = tuple(
    Configuration(
        "bentoml", f"{workers} workers, {kind}", {"WORKERS": str(workers), "KIND": kind, "BATCH": "8"}
    )
    for workers, kind in ((1, "async"), (2, "async"), (4, "async"), (2, "sync"), (2, "batch"))
)


def peer_python(stand: Stand, given: Path | None) -> Path:
    """Return the interpreter that has the peers: the given one, or that of an environment made beside the stand.

    Raises:
        SystemExit: the packages could not be installed.

    """
    if given is not None:
        return given
    folder = stand.folder.parent / "peers"
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    print(f"installing mosec and BentoML in {folder}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    pinned = re.findall(r"^(\S+)==\S+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    shared = [line for name, line in zip(pinned, lines, strict=True) if name.lower() in SHARED]
    install = [str(python), "-m", "pip", "install", "--quiet", "mosec", "bentoml", *shared]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"mosec and BentoML could not be installed: {done.stderr.strip()[-500:]}")
    (folder / "complete").touch()
    return python


def versions(python: Path) -> dict[str, str]:
    """Return the versions of the peers and of what they share with the service."""
    listed = subprocess.run(
        [str(python), "-m", "pip", "list", "--format", "json"], capture_output=True, text=True, check=True
    )
    found = {entry["name"].lower(): entry["version"] for entry in json.loads(listed.stdout)}
    return {name: found[name] for name in ("mosec", "bentoml", *SHARED)}


@contextlib.contextmanager
def peer(stand: Stand, python: Path, configuration: Configuration) -> Iterator[Target]:
    """Start a peer on the stand's TIN bundle; yields where requests go, once it answers.

    Raises:
        SystemExit: it did not start; the end of its output says why.

    """
    port = free_port()
    prepared = stand.prepared("tin")
    environment = {
        **os.environ,
        **configuration.environment,
        BUNDLE: str(prepared.bundle),
        REDIS: prepared.redis,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(stand.folder / "bentoml"),
    }
    output = stand.folder / f"{configuration.peer}.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            _command(python, configuration, port),
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        asked = zipf_requests(stand.sizes.users)
        url = f"http://127.0.0.1:{port}/score"
        _wait_until_ready(process, url, _body(configuration, asked[0]), configuration, output)
        bodies = stand.folder / "bodies" / f"{configuration.peer}-{configuration.body.rpartition('/')[2]}"
        write_bodies(bodies, [_body(configuration, one) for one in asked])
        yield Target(url, bodies, {"service": process.pid, "store": stand.store_pid}, configuration.body)
    finally:
        _stop(process)


def largest_difference(one: Target, other: Target, *, count: int = 32) -> float:
    """Return the largest difference in log-odds of the answers to the first bodies of two targets."""
    pairs = zip(_answers(one, count), _answers(other, count), strict=True)
    return max(
        abs(_logit(a) - _logit(b)) for mine, theirs in pairs for a, b in zip(mine, theirs, strict=True)
    )


def _body(configuration: Configuration, asked: Asked) -> bytes:
    if configuration.environment.get("KIND") == "batch":
        return b'{"asked":[' + asked.json() + b"]}"
    return asked.msgpack() if configuration.body == MSGPACK else asked.json()


def _command(python: Path, configuration: Configuration, port: int) -> list[str]:
    if configuration.peer == "mosec":
        module = ["-m", "benchmarks.support.peer_mosec", "--address", "127.0.0.1", "--log-level", "warning"]
        return [str(python), *module, "--port", str(port)]
    served = ["serve", "benchmarks.support.peer_bentoml:Score", "--host", "127.0.0.1", "--port", str(port)]
    return [str(python), "-m", "bentoml", *served]


def _post(url: str, body: bytes, content_type: str) -> bytes:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": content_type})  # noqa: S310 - http
    with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - our own address
        content: bytes = answer.read()
    return content


def _answers(target: Target, count: int) -> list[list[float]]:
    """Return the scores of the first bodies, asked several at a time so that a peer's batches form."""
    written = target.bodies.read_bytes()
    bodies = []
    at = 0
    for _ in range(count):
        length = int(written[at : at + 8])
        bodies.append(written[at + 8 : at + 8 + length])
        at += 8 + length
    with ThreadPoolExecutor(TOGETHER) as pool:
        contents = list(pool.map(lambda body: _post(target.url, body, target.content_type), bodies))
    return [_scores(content, target.content_type) for content in contents]


def _scores(content: bytes, content_type: str) -> list[float]:
    answer: Any = msgpack.unpackb(content) if content_type == MSGPACK else json.loads(content)
    scores: list[float] = answer["scores"] if isinstance(answer, dict) else answer[0]
    return scores


def _logit(probability: float) -> float:
    return math.log(probability) - math.log1p(-probability)


def _wait_until_ready(
    process: subprocess.Popen[bytes], url: str, body: bytes, configuration: Configuration, output: Path
) -> None:
    until = time.monotonic() + READY_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError, urllib.error.HTTPError):
            _post(url, body, configuration.body)
            return
        time.sleep(0.1)
    last = output.read_text(errors="replace").strip().splitlines()[-3:]
    raise SystemExit(f"{configuration.peer} ({configuration.name}) did not start: {' | '.join(last)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it has started: it leads a session of its own."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
