"""`longsight prepare` on a log of 20 M behaviours and 5 M impressions: seconds, memory, bytes.

The log is made once, with a fixed seed, under .longsight/: 400,000 users with a long tail, items and shops shared by
behaviours and ads, string and integer ids, a request id for every two or three impressions. `prepare` then runs as a
process of its own on two cores; the memory of its process tree is sampled 20 times a second. With `--behaviors`
another size, to see how memory grows. Run: `python benchmarks/prepare_scale.py [--json] [--behaviors 60000000]`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil

from benchmarks.support.bars import bar, finish

CORES = 2
MAX_WALL_S = 150.0
MAX_PEAK_GB = 4.0
MAX_RATIO = 1.2  # bytes of the behaviour part over the packed records
BEHAVIORS, IMPRESSIONS = 20_000_000, 5_000_000
USERS, ITEMS, SHOPS, ADS, REQUESTS = 400_000, 5_000_000, 1_000_000, 300_000, 2_000_000
PIECE = 5_000_000  # rows made at once
START, DAYS = 1_700_000_000, 60
RECORD_BYTES = 24  # two keys, a second, an action, padding
SAMPLE_S = 0.05
ROOT = Path(__file__).resolve().parents[1]
SCHEMA = f"""
actions = ["view", "cart", "favour", "buy"]
[split]
validation_from = {START + (DAYS - 7) * 86_400}
test_from = {START + (DAYS - 2) * 86_400}
[vocabularies.item]
kind = "exact"
min_count = 2
oov_buckets = 16
[vocabularies.shop]
kind = "exact"
[vocabularies.city]
kind = "exact"
[vocabularies.slot]
kind = "exact"
[[behavior]]
name = "item_id"
type = "categorical"
vocabulary = "item"
[[behavior]]
name = "shop_id"
type = "categorical"
vocabulary = "shop"
[[ad]]
name = "item_id"
type = "categorical"
vocabulary = "item"
matches = "item_id"
[[ad]]
name = "shop_id"
type = "categorical"
vocabulary = "shop"
matches = "shop_id"
[[ad]]
name = "price"
type = "numeric"
transform = "log1p"
[[user]]
name = "city"
type = "categorical"
vocabulary = "city"
[[context]]
name = "slot"
type = "categorical"
vocabulary = "slot"
[[context]]
name = "position"
type = "numeric"
at_serving = 1
"""


def write_log(log: Path, behaviors: int) -> None:
    """Write the log, in pieces, so that this script needs little memory itself."""
    generator = np.random.default_rng(20)
    unfinished = log.with_name(f".{log.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    (unfinished / "schema.toml").write_text(SCHEMA)
    pieces = unfinished / "pieces"
    pieces.mkdir()
    for first in range(0, behaviors, PIECE):
        rows = min(PIECE, behaviors - first)
        events(generator, rows).write_parquet(pieces / f"{first:012}.parquet")
    pl.scan_parquet(pieces).sink_parquet(unfinished / "behaviors.parquet")
    shutil.rmtree(pieces)
    impressions(generator).write_parquet(unfinished / "impressions.parquet")
    ad = np.arange(ADS)
    item = tail(generator, ITEMS, ADS)
    pl.DataFrame(
        {
            "ad_id": ad + 10_000_000,
            "item_id": item,
            "shop_id": shop(item),
            "price": generator.lognormal(3, 1, ADS),
            "name": pl.Series(ad).cast(pl.String),
        }
    ).write_parquet(unfinished / "ads.parquet")
    known = np.arange(0, USERS, 2)
    pl.DataFrame({"user_id": user_id(known), "city": [f"city {i % 300}" for i in known]}).write_parquet(
        unfinished / "users.parquet"
    )
    unfinished.rename(log)


def events(generator: np.random.Generator, rows: int) -> pl.DataFrame:
    """Return behaviours in no order."""
    item = tail(generator, ITEMS, rows)
    return pl.DataFrame(
        {
            "user_id": user_id(tail(generator, USERS, rows)),
            "timestamp": START + generator.integers(0, DAYS * 86_400, rows),
            "item_id": item,
            "shop_id": shop(item),
            "action": pl.Series(["view", "cart", "favour", "buy"]).gather(
                generator.choice(4, rows, p=[0.9, 0.05, 0.03, 0.02])
            ),
        }
    )


def impressions(generator: np.random.Generator) -> pl.DataFrame:
    """Return impressions in the order of time, two or three ads a request."""
    when = np.sort(START + generator.integers(0, DAYS * 86_400, REQUESTS))
    user = tail(generator, USERS, REQUESTS)
    request = np.sort(np.append(np.arange(REQUESTS), generator.integers(0, REQUESTS, IMPRESSIONS - REQUESTS)))
    position = np.arange(IMPRESSIONS) - np.searchsorted(request, request)
    # ads of one request lie a fixed step apart, so that none stands there twice
    ad = (tail(generator, ADS, REQUESTS)[request] + 997 * position) % ADS
    return pl.DataFrame(
        {
            "user_id": user_id(user[request]),
            "ad_id": ad + 10_000_000,
            "timestamp": when[request],
            "clicked": (generator.random(IMPRESSIONS) < 0.05).astype(np.int8),
            "request_id": pl.select(pl.format("req-{}", pl.Series(request * 7919))).to_series(),
            "sampling_rate": np.ones(IMPRESSIONS),
            "slot": pl.Series(["top", "side", "feed"]).gather(position % 3),
            "position": position + 1,
        }
    )


def tail(generator: np.random.Generator, ids: int, rows: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Draw ids with a long tail: a tenth of them gets about a third of the rows."""
    return (generator.random(rows) ** 2 * ids).astype(np.int64)


def user_id(number: "np.ndarray[Any, np.dtype[np.int64]]") -> pl.Series:
    """Return the string ids of users."""
    return pl.select(pl.format("user-{}", pl.Series(number))).to_series()


def shop(item: "np.ndarray[Any, np.dtype[np.int64]]") -> pl.Series:
    """Return the string id of each item's shop."""
    return pl.select(pl.format("s{}", pl.Series(item * 2_654_435_761 % SHOPS))).to_series()


def measure(log: Path, dataset: Path) -> dict[str, Any]:
    """Prepare once in a process; return its result, seconds, and the peak of its tree's memory in GB (10^9)."""
    shutil.rmtree(dataset, ignore_errors=True)
    shutil.rmtree(dataset.with_name(f".{dataset.name}.prepare"), ignore_errors=True)
    command = [sys.executable, "-m", "cli", "prepare", str(log), str(dataset), "--json"]
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        tree, peak = psutil.Process(process.pid), 0
        while process.poll() is None:
            peak = max(peak, resident(tree))
            time.sleep(SAMPLE_S)
        wall_s = time.perf_counter() - started
        assert process.stdout is not None
        output = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"prepare failed with {process.returncode}")
    counts = json.loads(output.splitlines()[-1])
    packed = counts["behaviors"] * RECORD_BYTES
    behavior_files = ("records.npy", "user_keys.npy", "user_offsets.npy")
    return {
        "behaviors": pl.scan_parquet(log / "behaviors.parquet").select(pl.len()).collect().item(),
        "impressions": counts["rows"],
        "wall_s": round(wall_s, 1),
        "peak_gb": round(peak / 1e9, 2),
        "log_mb": size_mb(log),
        "dataset_mb": size_mb(dataset),
        "behavior_bytes_over_packed": sum((dataset / name).stat().st_size for name in behavior_files)
        / packed,
        "counts": counts,
    }


def resident(tree: psutil.Process) -> int:
    """Return the resident bytes of a process and its children."""
    total = 0
    try:
        for process in (tree, *tree.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def size_mb(folder: Path) -> float:
    """Return the size of a folder's files in MB."""
    return round(sum(path.stat().st_size for path in folder.iterdir()) / 1e6, 1)


def main() -> None:
    """Make the log if it is not there, measure, print a table and the bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument(
        "--behaviors", type=int, default=BEHAVIORS, help="another size: no bar on the seconds"
    )
    given = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    log = ROOT / ".longsight" / "benchmarks" / f"prepare-log-{given.behaviors}"
    if not (log / "schema.toml").exists():
        write_log(log, given.behaviors)
    dataset = log.with_name(f"prepare-dataset-{given.behaviors}")
    result = measure(log, dataset)
    shutil.rmtree(dataset)
    for name, value in result.items():
        print(f"{name:<28}{value}")
    limits = [
        bar("prepare peak_gb", result["peak_gb"], "<=", MAX_PEAK_GB),
        bar("behaviour bytes / packed records", result["behavior_bytes_over_packed"], "<=", MAX_RATIO),
    ]
    if given.behaviors == BEHAVIORS:
        limits.insert(0, bar("prepare wall_s", result["wall_s"], "<=", MAX_WALL_S))
    finish({"prepare": result}, limits, as_json=given.json)


if __name__ == "__main__":
    main()
