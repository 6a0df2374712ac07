"""`longsight demo`: the whole path on real data, as the commands a person would type, then one scored trip.

Every step is a `longsight` command in a process of its own; what a finished step left is used again.
"""

import contextlib
import json
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import polars as pl
from rich.console import Console
from rich.table import Table

from contract.errors import InputError, LongsightError
from training.importers.promoted import promoted_on_trips

READY_S: Final = 60.0
DRAIN_S: Final = 30.0
BEST: Final = 10
CLICKS: Final = 8  # the shown trip bought at least so many promoted products
TRAINING: Final[dict[str, tuple[str, ...]]] = {
    # Enough for a good model within the demo's minutes; `longsight train` alone takes the full defaults.
    "tin": ("history_length=500", "epochs=2"),
    "din": ("history_length=100", "epochs=1"),
    "diffumin": ("history_length=200", "epochs=2"),
    "mean_pool": (),
    "popularity": (),
}


@dataclass(frozen=True)
class Trip:
    """One logged trip of the test weeks, with every product promoted to it."""

    body: dict[str, Any]  # of POST /score, columnar
    names: list[str]
    bought: list[bool]


def run_demo(*, model: str, port: int, once: bool, folder: Path, console: Console) -> None:
    """Import, prepare, train, export, load, serve, score; then stay until Ctrl-C unless `once`.

    Raises:
        InputError: no such model, or the port is taken.
        LongsightError: a step failed; its own message has gone to stderr.

    """
    if model not in TRAINING:
        raise InputError(f"--model {model}: no such model; there are {', '.join(TRAINING)}")
    _check_port(port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the service is ended too
    started = time.perf_counter()
    paths = {name: folder / name for name in ("log", "dataset", f"run-{model}", f"bundle-{model}", "valkey")}
    log, dataset, run, bundle, valkey = paths.values()
    settings = [word for setting in TRAINING[model] for word in ("--set", setting)]
    _step(console, log, "schema.toml", ["import", "complete-journey", str(folder / "raw"), str(log)])
    _step(console, dataset, "dataset.json", ["prepare", str(log), str(dataset)])
    _step(console, run, "run.json", ["train", str(dataset), str(run), "--model", model, *settings])
    _step(console, bundle, "manifest.json", ["export", str(run), str(bundle)])
    _step(console, valkey, "loaded", ["load", str(log), "--embedded-dir", str(valkey)])
    (valkey / "loaded").touch()
    trip = choose_trip(log)
    command = ["serve", str(bundle), "--embedded-dir", str(valkey), "--port", str(port)]
    with _service(console, command, f"http://127.0.0.1:{port}") as url:
        _show(console, url, trip, seconds=time.perf_counter() - started)
        if not once:
            console.print(f"\nServing at {url} (docs at {url}/docs). Ctrl-C stops it.")
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()


def choose_trip(log: Path) -> Trip:
    """Return a trip of the test weeks that bought several promoted products, always the same one."""
    impressions = pl.read_parquet(log / "impressions.parquet")
    ads = pl.read_parquet(log / "ads.parquet", columns=["ad_id", "name"])
    clicks = impressions.group_by("request_id").agg(
        pl.col("clicked").sum(), pl.col("timestamp", "user_id", "store", "hour", "weekday").first()
    )
    late = clicks.filter(pl.col("clicked") >= CLICKS).sort("timestamp", "request_id").tail(200)
    chosen = late.row(len(late) // 2, named=True)
    promoted = promoted_on_trips(None, [int(chosen["request_id"])]).join(
        ads, on="ad_id", how="left", maintain_order="left"
    )
    body = {
        "user_id": chosen["user_id"],
        "timestamp": chosen["timestamp"],
        "request_id": f"trip-{chosen['request_id']}",
        "context": {name: chosen[name] for name in ("store", "hour", "weekday")},
        "candidates": {
            "ad_id": promoted["ad_id"].to_list(),
            "context": {name: promoted[name].to_list() for name in ("display", "mailer")},
        },
    }
    return Trip(body, promoted["name"].fill_null("?").to_list(), (promoted["clicked"] > 0).to_list())


def _check_port(port: int) -> None:
    """Refuse a taken port now rather than after minutes of training."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise InputError(f"--port {port}: {error.strerror}; choose another") from error


def _step(console: Console, product: Path, marker: str, words: Sequence[str]) -> None:
    """Run one command unless its product is already there."""
    if (product / marker).exists():
        console.print(f"{product} is there already; remove it to make it anew", style="dim", soft_wrap=True)
        return
    console.print(f"$ longsight {shlex.join(words)}", style="bold", soft_wrap=True, markup=False)
    product.parent.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    code = subprocess.run(
        [sys.executable, "-m", "cli", *words], stdout=subprocess.DEVNULL, check=False
    ).returncode
    if code:
        raise LongsightError(f"longsight {words[0]} ended with exit code {code}; its message stands above")
    console.print(f"  {time.perf_counter() - begun:.0f} s")


@contextlib.contextmanager
def _service(console: Console, words: Sequence[str], url: str) -> Iterator[str]:
    """Yield the URL of a started service once it is ready; ends it afterwards."""
    console.print(f"$ longsight {shlex.join(words)}", style="bold", soft_wrap=True, markup=False)
    process = subprocess.Popen([sys.executable, "-m", "cli", *words])
    try:
        _wait_until_ready(process, url)
        yield url
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(DRAIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise LongsightError("longsight serve ended before it was ready; its message stands above")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz", timeout=2).status_code == httpx.codes.OK:
                return
        time.sleep(0.1)
    raise LongsightError(f"{url}/readyz did not answer 200 within {READY_S:.0f} s")


def _show(console: Console, url: str, trip: Trip, *, seconds: float) -> None:
    answer = httpx.post(f"{url}/score", json=trip.body, timeout=30)
    if answer.status_code != httpx.codes.OK:
        raise LongsightError(f"POST {url}/score: {answer.status_code} {answer.text}")
    scored = answer.json()
    best = sorted(range(len(trip.names)), key=lambda i: -scored["scores"][i])[:BEST]
    history = scored["history"]
    console.print(
        f"\nScored {len(trip.names):,} products promoted to household {trip.body['user_id']} "
        f"({history['length']} purchases in view) in {1000 * answer.elapsed.total_seconds():.1f} ms, "
        f"{seconds:.0f} s after the start. Model {scored['model']}, version {scored['version']}.",
        soft_wrap=True,
    )
    table = Table("", "promoted product", "probability", "bought", title=f"The {BEST} best")
    for rank, i in enumerate(best, start=1):
        table.add_row(str(rank), trip.names[i], f"{scored['scores'][i]:.3f}", "yes" if trip.bought[i] else "")
    console.print(table)
    console.print(
        "Probabilities are relative to the log's candidates: what was bought, among 20 others drawn by sales.\n"
        f"Server-Timing: {answer.headers.get('server-timing', '-')}\n\nTry it yourself:\n",
        soft_wrap=True,
    )
    print(curl(url, trip, best[:3]))  # noqa: T201 - not wrapped at the width of the terminal


def curl(url: str, trip: Trip, chosen: Sequence[int]) -> str:
    """Return a command line that scores a few of the trip's products."""
    candidates = trip.body["candidates"]
    listed = [
        {
            "ad_id": candidates["ad_id"][i],
            "context": {name: values[i] for name, values in candidates["context"].items()},
        }
        for i in chosen
    ]
    body = {**trip.body, "request_id": "by-hand", "candidates": listed}
    return f"curl -s {url}/score -H 'content-type: application/json' -d {shlex.quote(json.dumps(body))}"
