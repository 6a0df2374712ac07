"""`longsight import taobao-ad` and `taobao-behavior` on generated files of 20 M behaviours: seconds, memory, disk.

The files are written once, with a fixed seed, under .longsight/: the real sizes per user (about 700 and 100
events), 800,000 ads, and four million items. Each import runs as a process of its own under a small `--memory`;
the memory and the disk that it takes are sampled 20 times a second. Run: `python benchmarks/import_taobao.py [--json]
[--behaviors 100000000]`.
"""

import argparse
import json
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

BEHAVIORS = 20_000_000
MEMORY_MB = {"taobao-ad": 512, "taobao-behavior": 960}
PIECE = 1_000_000  # rows made at once
SAMPLE_S = 0.05
ROOT = Path(__file__).resolve().parents[1]
LEVELS = ("age_level", "pvalue_level", "shopping_level", "occupation", "new_user_class_level ")
PROFILE = ("cms_segid", "cms_group_id", "final_gender_code", *LEVELS)
ADS, CATEGORIES, BRANDS, ITEMS = 800_000, 12_000, 460_000, 4_200_000
FIRST_EVENT, FIRST_AD, AD_END = 1_492_790_400, 1_494_000_000, 1_494_691_200
FIRST_CLICK, CLICK_END = 1_511_539_200, 1_512_316_800


def write_ads(raw: Path, behaviors: int) -> None:
    """Write the four files of the ad log; its behaviours are in no order."""
    generator = np.random.default_rng(56)
    users = behaviors // 640
    with (raw / "behavior_log.csv").open("wb") as file:
        file.write(b"user,time_stamp,btag,cate,brand\n")
        for start in range(0, behaviors, PIECE):
            rows = min(PIECE, behaviors - start)
            frame = pl.DataFrame(
                {
                    "user": tail(generator, users, rows),
                    "time_stamp": generator.integers(FIRST_EVENT, AD_END, rows),
                    "btag": words(generator, ("pv", "cart", "fav", "buy"), (0.9, 0.04, 0.04, 0.02), rows),
                    "cate": tail(generator, CATEGORIES, rows),
                    "brand": tail(generator, BRANDS, rows),
                }
            )
            file.write(frame.write_csv(include_header=False).encode())
    shown = behaviors // 27
    clicked = (generator.random(shown) < 0.05).astype(np.int8)
    pl.DataFrame(
        {
            "user": generator.integers(1, users + 1, shown),
            "time_stamp": generator.integers(FIRST_AD, AD_END, shown),
            "adgroup_id": tail(generator, ADS, shown),
            "pid": words(generator, ("430548_1007", "430539_1007"), (0.6, 0.4), shown),
            "nonclk": 1 - clicked,
            "clk": clicked,
        }
    ).write_csv(raw / "raw_sample.csv")
    numbers = {"cate_id": CATEGORIES, "campaign_id": 400_000, "customer": 250_000, "brand": BRANDS}
    ads = {name: generator.integers(1, size, ADS) for name, size in numbers.items()}
    price = np.round(generator.lognormal(5, 1, ADS), 2)
    pl.DataFrame({"adgroup_id": np.arange(1, ADS + 1)} | ads | {"price": price}).write_csv(
        raw / "ad_feature.csv"
    )
    known = np.arange(1, users + 1)[: users * 19 // 20]
    profile = {name: generator.integers(0, 5, len(known)) for name in PROFILE}
    pl.DataFrame({"userid": known} | profile).write_csv(raw / "user_profile.csv")


def write_clicks(raw: Path, behaviors: int) -> None:
    """Write UserBehavior.csv: sorted by user, as the real one nearly is, and in no order inside a user."""
    generator = np.random.default_rng(649)
    with (raw / "UserBehavior.csv").open("wb") as file:
        for start in range(0, behaviors, PIECE):
            rows = min(PIECE, behaviors - start)
            item = tail(generator, ITEMS, rows)
            frame = pl.DataFrame(
                {
                    "user": np.arange(start, start + rows) // 100 + 1,
                    "item": item,
                    "category": item % 9_000 + 1,
                    "type": words(generator, ("pv", "cart", "fav", "buy"), (0.9, 0.055, 0.025, 0.02), rows),
                    "timestamp": generator.integers(FIRST_CLICK, CLICK_END, rows),
                }
            )
            file.write(frame.write_csv(include_header=False).encode())


def tail(generator: np.random.Generator, ids: int, rows: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Draw ids from 1 with a long tail."""
    return (generator.random(rows) ** 1.5 * ids).astype(np.int64) + 1


def words(
    generator: np.random.Generator, choices: tuple[str, ...], share: tuple[float, ...], rows: int
) -> pl.Series:
    """Draw words, each with its share."""
    return pl.Series(choices).gather(generator.choice(len(choices), rows, p=share))


def measure(source: str, raw: Path, log: Path) -> dict[str, Any]:
    """Import once in a process; return seconds, the peaks of its memory (MB) and of its files (MB), and counts."""
    shutil.rmtree(log, ignore_errors=True)
    command = [sys.executable, "-m", "cli", "import", source, str(raw), str(log), "--json"]
    started = time.perf_counter()
    peak, disk = 0, 0
    command += ["--memory", f"{MEMORY_MB[source]}MB"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                peak = max(peak, watched.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            disk = max(disk, written(log))
            time.sleep(SAMPLE_S)
        assert process.stdout is not None
        output = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"import {source} failed with {process.returncode}")
    return {
        "memory_mb": MEMORY_MB[source],
        "peak_mb": round(peak / 1e6),
        "wall_s": round(time.perf_counter() - started, 1),
        "raw_mb": round(sum(path.stat().st_size for path in raw.iterdir()) / 1e6),
        "most_disk_mb": round(disk / 1e6),
        "log_mb": round(sum(path.stat().st_size for path in log.iterdir()) / 1e6),
        "counts": json.loads(output.splitlines()[-1]),
    }


def written(log: Path) -> int:
    """Return the bytes of the files that are being made beside `log`."""
    total = 0
    for folder in log.parent.glob(f".{log.name}.*"):
        for path in folder.rglob("*"):
            try:
                total += path.stat().st_size
            except FileNotFoundError:  # it was sorted meanwhile
                continue
    return total


def main() -> None:
    """Make the files if they are not there, import, print a table and the bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--behaviors", type=int, default=BEHAVIORS, help="another size")
    given = parser.parse_args()
    tables, limits = {}, []
    for source, write in (("taobao-ad", write_ads), ("taobao-behavior", write_clicks)):
        raw = ROOT / ".longsight" / "benchmarks" / f"{source}-{given.behaviors}"
        if not raw.exists():
            unfinished = raw.with_name(f".{raw.name}")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            write(unfinished, given.behaviors)
            unfinished.rename(raw)
        log = raw.with_name(f"{raw.name}-log")
        tables[source] = measure(source, raw, log)
        shutil.rmtree(log)
        print(source)
        for name, value in tables[source].items():
            print(f"  {name:<16}{value}")
        limits.append(bar(f"{source} peak_mb", tables[source]["peak_mb"], "<=", MEMORY_MB[source]))
    finish(tables, limits, as_json=given.json)


if __name__ == "__main__":
    main()
