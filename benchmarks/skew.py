"""Is what is served what was evaluated? Skew and isolation of a run, over HTTP, against a real store.

Exports the run, loads the log into an embedded Valkey, replays logged test impressions (among them users whose
history window is full), and scores the same requests again reordered, in company, from two workers. Run:
`python benchmarks/skew.py [--json] [--folder .longsight/quality --run tin]` after `benchmarks/quality.py`.

Of a model that picks by argmax (diffumin) 99 % of the differences are held to the bars and every one to 0.05. That a
narrow pick lies behind an outlier can't be seen over HTTP: `export` shows it, on the golden requests.
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
from cli.asking import TOLERANCE
from cli.pairs import LoggedRequest, read_pairs, requests
from cli.replay import replay
from contract.closeness import PICKED_FAR, PICKED_SHARE
from export.exporter import export
from service.history.embedded import embedded_server
from service.history.load import load
from training.evaluate import evaluate
from training.run import Run

REPLAYED: Final = 400  # requests of about 24 impressions
ISOLATED: Final = 40
CONNECTIONS: Final = 8
ISOLATION: Final = 1e-5  # of log-odds: what company, order and padding may change


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
) -> tuple[list[NDArray[np.float64]], dict[str, list[NDArray[np.float64]]]]:
    """Return the log-odds of requests scored one by one, and their changes by order, subset and company."""
    generator = np.random.default_rng(0)
    change: dict[str, list[NDArray[np.float64]]] = {name: [] for name in ("order", "subset", "company")}
    with httpx.Client(base_url=f"http://{service.host}:{service.port}", timeout=30) as client:
        alone = [post(client, request.body)[0] for request in chosen]
        for request, expected in zip(chosen, alone, strict=True):
            order = generator.permutation(len(expected))
            for name, part in (("order", order), ("subset", order[: len(order) // 2 + 1])):
                served = post(client, reordered(request.body, part))[0]
                change[name].append(np.abs(served - expected[part]))
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for (served, _), expected in zip(
                pool.map(lambda request: post(client, request.body), chosen * 4), alone * 4, strict=True
            ):
                change["company"].append(np.abs(served - expected))
    return alone, change


def two_workers(
    service: Running, chosen: list[LoggedRequest], alone: list[NDArray[np.float64]]
) -> list[NDArray[np.float64]]:
    """Return the changes when two processes answer, each over connections of its own."""
    change = []
    for request, expected in zip(chosen * 2, alone * 2, strict=True):
        with httpx.Client(base_url=f"http://{service.host}:{service.port}", timeout=30) as client:
            change.append(np.abs(post(client, request.body)[0] - expected))
    return change


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
    isolated = {name: spread(np.concatenate(parts)) for name, parts in change.items()}
    padded = {"max": exported["batch_difference"], "p99": exported["batch_difference_p99"]}
    tables = {
        "replay": replayed,
        "full_windows": full,
        "isolation": {**isolated, "padding, in the graph": padded},
    }
    return tables, bars_of(tables)


def bars_of(tables: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the bars of what was measured."""
    replayed = tables["replay"]
    picks = replayed["hard_routing"]
    bars = [
        bar("impressions compared over HTTP", replayed["compared"], ">=", 5000),
        bar("replayed requests whose window is full", tables["full_windows"], ">=", 1),
        *close("|log-odds served - offline|", replayed["difference"], TOLERANCE, picks=picks),
    ]
    for name, difference in tables["isolation"].items():
        bars += close(f"isolation by {name}, log-odds", difference, ISOLATION, picks=picks)
    return bars


def spread(difference: NDArray[np.float64]) -> dict[str, float]:
    """Return the largest of differences, and what 99 % of them are at most."""
    p99 = np.quantile(difference, 1 - PICKED_SHARE, method="higher")
    return {"max": float(difference.max()), "p99": float(p99)}


def close(name: str, difference: dict[str, float], limit: float, *, picks: bool) -> list[dict[str, Any]]:
    """Return the bars of differences: the largest of a model that picks nothing, else 99 % and the largest."""
    if not picks:
        return [bar(f"largest {name}", difference["max"], "<=", limit)]
    return [
        bar(f"{name}, of 99 %", difference["p99"], "<=", limit),
        bar(f"largest {name}", difference["max"], "<=", PICKED_FAR),
    ]


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
