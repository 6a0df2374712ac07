"""Is what is served what was evaluated? Skew and isolation of a run, over HTTP, against a real store.

Exports the run, loads the log into an embedded Valkey, replays logged test impressions (among them users whose
history window is full), and scores the same requests again reordered, in company, from two workers. Run:
`python benchmarks/skew.py [--json] [--folder .longsight/quality --run tin]` after `benchmarks/quality.py`.
"""

import argparse
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from numpy.typing import NDArray

from benchmarks.support.bars import bar, finish
from benchmarks.support.running_service import Prepared, Running, running
from cli.pairs import LoggedRequest, read_pairs, requests
from cli.replay import replay
from export.exporter import export
from service.history.embedded import embedded_server
from service.history.load import load
from training.evaluate import evaluate
from training.run import Run

REPLAYED: Final = 400  # requests of about 24 impressions
ISOLATED: Final = 40
CONNECTIONS: Final = 8


def log_odds(scores: list[float]) -> NDArray[np.float64]:
    """Return the log-odds of probabilities."""
    p = np.asarray(scores, dtype=np.float64)
    odds: NDArray[np.float64] = np.log(p) - np.log1p(-p)
    return odds


def post(client: httpx.Client, body: dict[str, Any]) -> tuple[NDArray[np.float64], int]:
    """Return the log-odds of a request and the length of the history it saw."""
    answer = client.post("/score", json=body).raise_for_status().json()
    assert answer["history"]["status"] in {"hit", "empty"}, answer["history"]
    return log_odds(answer["scores"]), answer["history"]["length"]


def reordered(body: dict[str, Any], order: NDArray[np.int64]) -> dict[str, Any]:
    """Return a columnar request with its candidates in another order."""
    columns = body["candidates"]
    context = {name: [values[i] for i in order] for name, values in columns.get("context", {}).items()}
    return {
        **body,
        "candidates": {**columns, "ad_id": [columns["ad_id"][i] for i in order], "context": context},
    }


def isolation(
    service: Running, chosen: list[LoggedRequest]
) -> tuple[list[NDArray[np.float64]], dict[str, float]]:
    """Return the log-odds of requests scored one by one, and the largest change by order, subset and company."""
    generator = np.random.default_rng(0)
    change = dict.fromkeys(("order", "subset", "company"), 0.0)
    with httpx.Client(base_url=f"http://{service.host}:{service.port}", timeout=30) as client:
        alone = [post(client, request.body)[0] for request in chosen]
        for request, expected in zip(chosen, alone, strict=True):
            order = generator.permutation(len(expected))
            for name, part in (("order", order), ("subset", order[: len(order) // 2 + 1])):
                served = post(client, reordered(request.body, part))[0]
                change[name] = max(change[name], float(np.abs(served - expected[part]).max()))
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for (served, _), expected in zip(
                pool.map(lambda request: post(client, request.body), chosen * 4), alone * 4, strict=True
            ):
                change["company"] = max(change["company"], float(np.abs(served - expected).max()))
    return alone, change


def two_workers(service: Running, chosen: list[LoggedRequest], alone: list[NDArray[np.float64]]) -> float:
    """Return the largest change when two processes answer, each over connections of its own."""
    largest = 0.0
    for request, expected in zip(chosen * 2, alone * 2, strict=True):
        with httpx.Client(base_url=f"http://{service.host}:{service.port}", timeout=30) as client:
            largest = max(largest, float(np.abs(post(client, request.body)[0] - expected).max()))
    return largest


def measure(
    run: Path, log: Path, *, diffusion: str = "unrolled"
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Export, load, serve and compare; returns the tables and the bars."""
    with tempfile.TemporaryDirectory(prefix="longsight-skew-") as name:
        folder = Path(name)
        exported = export(run, folder / "bundle", diffusion=diffusion)
        evaluate(run, predictions=folder / "p.parquet", student=diffusion == "distilled")
        with embedded_server(folder / "valkey") as url:
            load(log, redis_url=url)
            what = Prepared(folder / "bundle", url)
            pairs, context = read_pairs(log, folder / "p.parquet")
            chosen = list(requests(pairs, context, limit=ISOLATED))
            asked = requests(pairs, context, limit=REPLAYED)
            with running(what) as service:
                address = f"http://{service.host}:{service.port}"
                replayed = replay(
                    log,
                    url=address,
                    predictions=folder / "p.parquet",
                    limit=REPLAYED,
                    progress=lambda *_: None,
                )
                alone, change = isolation(service, chosen)
                full = _full_windows(service, asked, Run.load(run).history_length)
            with running(what, "--workers", "2") as service:
                change["workers"] = two_workers(service, chosen, alone)
    change["padding, in the graph"] = exported["batch_difference"]
    bars = [
        bar("impressions compared over HTTP", replayed["compared"], ">=", 5000),
        bar("replayed requests whose window is full", full, ">=", 1),
        bar("largest |log-odds served - offline|", replayed["difference"]["max"], "<=", 1e-4),
        *(bar(f"isolation by {name}, log-odds", value, "<=", 1e-5) for name, value in change.items()),
    ]
    return {"replay": replayed, "full_windows": full, "isolation": change}, bars


def _full_windows(service: Running, asked: Iterable[LoggedRequest], history_length: int) -> int:
    """Count the replayed requests whose user has at least L events."""
    full = 0
    with httpx.Client(base_url=f"http://{service.host}:{service.port}", timeout=30) as client:
        for request in asked:
            first = {**request.body, "candidates": {"ad_id": request.body["candidates"]["ad_id"][:1]}}
            full += post(client, first)[1] >= history_length
    return full


def main() -> None:
    """Measure a run; print the bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument(
        "--folder", type=Path, default=Path(".longsight/quality"), help="of benchmarks/quality.py"
    )
    parser.add_argument("--run", default="tin", help="which run in that folder")
    parser.add_argument("--log", type=Path, help="log folder (default: the one of benchmarks/quality.py)")
    parser.add_argument("--diffusion", default="unrolled", help="of a diffumin run: unrolled or distilled")
    given = parser.parse_args()
    log = given.log or given.folder / "log-popular-20"
    tables, bars = measure(given.folder / given.run, log, diffusion=given.diffusion)
    finish(tables, bars, as_json=given.json)


if __name__ == "__main__":
    main()
