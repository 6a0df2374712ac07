"""A service to measure: a bundle and a store, given or made here, and the real program serving them."""

import contextlib
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Final

import numpy as np
import polars as pl

ROOT: Final = Path(__file__).resolve().parents[2]
READY_S: Final = 120.0

# The shape of The Complete Journey, where the real bundle comes from: six matched fields, seven of the user, five of
# the context; 200 users with 1,100 to 1,500 events.
MATCHED: Final = {"kind": 2000, "group": 300, "department": 30, "brand": 2, "maker": 5000}
PROFILE: Final = ("age", "income", "home", "marital", "size", "composition", "kids")
CONTEXT: Final = {"display": 10, "mailer": 8, "store": 100, "hour": 24, "weekday": 7}
USERS: Final = 200
ADS: Final = 20_000
START: Final = 1_500_000_000
SPAN_S: Final = 300 * 86_400


@dataclass(frozen=True)
class Prepared:
    """A bundle folder and the URL of a store that holds its histories and ads."""

    bundle: Path
    redis: str


@dataclass(frozen=True)
class Running:
    """A service that is ready, and how long that took from the start of its process."""

    process: subprocess.Popen[bytes]
    host: str
    port: int
    ready_s: float


@contextlib.contextmanager
def prepared(bundle: Path | None, redis: str | None) -> Iterator[Prepared]:
    """Yield what was given; whatever is missing is made, in a folder that is removed again."""
    if bundle is not None and redis is not None:
        yield Prepared(bundle, redis)
        return
    if bundle is not None or redis is not None:
        raise SystemExit("give --bundle and --redis together, or neither")
    from service.history.embedded import embedded_server  # noqa: PLC0415 - only when nothing is given

    with tempfile.TemporaryDirectory(prefix="longsight-bench-") as name:
        folder = Path(name)
        write_log(folder / "log")
        longsight("prepare", folder / "log", folder / "dataset")
        longsight("train", folder / "dataset", folder / "run", "--model", "tin", "--set", "epochs=1")
        longsight("export", folder / "run", folder / "bundle")
        with embedded_server(folder / "valkey") as url:
            longsight("load", folder / "log", "--redis", url)
            yield Prepared(folder / "bundle", url)


@contextlib.contextmanager
def running(
    what: Prepared, *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Start `longsight serve` in a process of its own and yield it once it is ready.

    `environment` comes on top of this process's: settings such as `LONGSIGHT_RUNTIME__THREADS`.
    """
    port = free_port()
    served = ["serve", str(what.bundle), "--redis", what.redis, "--port", str(port), *arguments]
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", *served],
            cwd=ROOT,
            stderr=log,
            env={**os.environ, **(environment or {})},
        )
        try:
            _wait_until_ready(process, port, log)
            yield Running(process, "127.0.0.1", port, time.perf_counter() - started)
        finally:
            process.terminate()
            process.wait(60)


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_log(folder: Path) -> None:
    """Write a synthetic log folder: long histories, many ads, few impressions."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    ads = {name: rng.integers(0, size, ADS).astype(str) for name, size in MATCHED.items()}
    pl.DataFrame({"ad_id": np.arange(ADS).astype(str), **ads}).write_parquet(folder / "ads.parquet")
    events = rng.integers(1100, 1500, USERS)
    products = (rng.zipf(1.2, int(events.sum())) - 1) % ADS
    pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(USERS), events),
            "timestamp": START + np.sort(rng.integers(0, SPAN_S, len(products))),
            "product_id": products.astype(str),
            **{name: values[products] for name, values in ads.items()},
        }
    ).write_parquet(folder / "behaviors.parquet")
    profile = {name: rng.integers(0, 6, USERS).astype(str) for name in PROFILE}
    pl.DataFrame({"user_id": np.arange(USERS), **profile}).write_parquet(folder / "users.parquet")
    _impressions(rng, requests=300, each=20).write_parquet(folder / "impressions.parquet")
    (folder / "schema.toml").write_text(_schema())


def longsight(*arguments: object) -> None:
    """Run one command of the program; its output is shown only if it fails."""
    command = [sys.executable, "-m", "cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.strip()}")


def machine() -> dict[str, object]:
    """Return what a published number has to name."""
    packages = ("onnxruntime", "numpy", "uvicorn", "fastapi", "redis")
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
    }


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        if process.poll() is not None:
            log.seek(0)
            last = (log.read().decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            raise SystemExit(f"the service ended with {process.returncode} before it was ready: {last}")
        with (
            contextlib.suppress(OSError),  # not listening yet, or 503
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer,
        ):
            if json.load(answer)["store"]["up"]:
                return
        time.sleep(0.01)
    raise SystemExit(f"the service was not ready within {READY_S:.0f} s")


def _impressions(rng: np.random.Generator, *, requests: int, each: int) -> pl.DataFrame:
    rows = requests * each
    per_request = {
        "user_id": rng.integers(0, USERS, requests),
        "timestamp": START + rng.integers(SPAN_S // 2, SPAN_S, requests),
        "request_id": np.arange(requests).astype(str),
        **{
            name: rng.integers(0, CONTEXT[name], requests).astype(str)
            for name in ("store", "hour", "weekday")
        },
    }
    return pl.DataFrame(
        {
            **{name: np.repeat(values, each) for name, values in per_request.items()},
            "ad_id": np.concatenate([rng.choice(ADS, each, replace=False) for _ in range(requests)]).astype(
                str
            ),
            "clicked": (rng.random(rows) < 0.1).astype(np.int8),
            **{name: rng.integers(0, CONTEXT[name], rows).astype(str) for name in ("display", "mailer")},
        }
    )


def _schema() -> str:
    lines = [
        "[split]",
        f"validation_from = {START + SPAN_S * 7 // 10}",
        f"test_from = {START + SPAN_S * 17 // 20}",
    ]
    for name in ("product", *MATCHED, *PROFILE, *CONTEXT):
        lines += [f"[vocabularies.{name}]", 'kind = "exact"']

    def field(group: str, name: str, vocabulary: str, matches: str = "") -> None:
        lines.extend(
            [f"[[{group}]]", f'name = "{name}"', 'type = "categorical"', f'vocabulary = "{vocabulary}"']
        )
        if matches:
            lines.append(f'matches = "{matches}"')

    field("behavior", "product_id", "product")
    field("ad", "ad_id", "product", "product_id")
    for name in MATCHED:
        field("behavior", name, name)
        field("ad", name, name, name)
    for name in PROFILE:
        field("user", name, name)
    for name in CONTEXT:
        field("context", name, name)
    return "\n".join(lines) + "\n"
