"""What the serving benchmark measures: one log, bundles of several models, and a store that holds it all; kept.

The log has two behaviour fields, an item and its category, both matched by the ad. Users `u0`, `u1`, ... have full
histories of L = 1000; users `m0`, `m1`, ... have 20 to 5,000 events, log-uniform. Every step goes through the
project's own commands; weights don't matter, so training sees a few hundred requests once.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import redis
from numpy.typing import NDArray

from benchmarks.support.item_schema import item_schema
from benchmarks.support.running_service import ROOT, Prepared, longsight
from service.history.embedded import embedded_server

ADS: Final = 50_000
CATEGORIES: Final = 500
REQUESTS: Final = 400
"""Impressions: so many requests of `PER_REQUEST` ads."""
PER_REQUEST: Final = 20
LAST: Final = 1_700_000_000
"""The newest event, seconds."""
SPAN_S: Final = 300 * 86_400
LONGEST: Final = 5000
SHORTEST: Final = 20

SCHEMA: Final = item_schema(validation_from=LAST - 2000, test_from=LAST - 1000)

MODELS: Final[dict[str, tuple[str, dict[str, object]]]] = {
    "tin": ("tin", {"history_length": 1000}),
    "tin-5000": ("tin", {"history_length": LONGEST}),
    "din": ("din", {"history_length": 1000}),
    "diffumin": ("diffumin", {"history_length": 1000}),
}
"""Model and settings by the name of the bundle; d = 64 throughout."""
WIDTH: Final = 64


@dataclass(frozen=True)
class Sizes:
    """How many users of each kind, and the events of those with a full history."""

    users: int = 5000
    mixed: int = 2000
    events: int = 1100


QUICK: Final = Sizes(users=400, mixed=200)


@dataclass(frozen=True)
class Stand:
    """The kept folder, with its store running."""

    folder: Path
    sizes: Sizes
    redis: str
    store_pid: int

    def bundle(self, name: str) -> Path:
        """Return a bundle of `MODELS`: made on first use, and again once the code that makes graphs has changed."""
        path = self.folder / "bundles" / name
        if not _fresh(path / "manifest.json"):
            model, settings = MODELS[name]
            print(f"making the bundle {name}", flush=True)
            run = self.folder / "runs" / name
            shutil.rmtree(run, ignore_errors=True)
            shutil.rmtree(path, ignore_errors=True)
            chosen = {**settings, "epochs": 1, "embedding_width": WIDTH}
            given = [part for key, value in chosen.items() for part in ("--set", f"{key}={value}")]
            longsight("train", self.folder / "dataset", run, "--model", model, *given)
            path.parent.mkdir(exist_ok=True)
            longsight("export", run, path)
        return path

    def prepared(self, name: str) -> Prepared:
        """Return a bundle and the store."""
        return Prepared(self.bundle(name), self.redis)

    def mixed_lengths(self) -> NDArray[np.int64]:
        """Return how many events the users `m0`, `m1`, ... have."""
        return lengths_of(self.sizes.mixed)


@contextlib.contextmanager
def stand(folder: Path, *, quick: bool) -> Iterator[Stand]:
    """Yield the stand in a folder: made there unless it is complete; its store runs until the end."""
    sizes = QUICK if quick else Sizes()
    folder = (folder / ("quick" if quick else "full")).absolute()
    done = folder / "complete.json"
    made = done.exists() and json.loads(done.read_text()) == asdict(sizes)
    if not made:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(f"making the log of {sizes.users + sizes.mixed} users in {folder}", flush=True)
        write_log(folder / "log", sizes)
        longsight("prepare", folder / "log", folder / "dataset")
    with embedded_server(folder / "valkey") as url:
        if not made:
            longsight("load", folder / "log", "--redis", url)
            done.write_text(json.dumps(asdict(sizes)))
        with contextlib.closing(redis.Redis.from_url(url, protocol=2)) as client:
            store_pid = int(client.info("server")["process_id"])
        yield Stand(folder, sizes, url, store_pid)


def _fresh(manifest: Path) -> bool:
    """Tell whether a bundle is there and no older than the code of models and export."""
    if not manifest.exists():
        return False
    sources = (file for room in ("training/models", "export") for file in (ROOT / room).rglob("*.py"))
    return manifest.stat().st_mtime >= max(file.stat().st_mtime for file in sources)


def lengths_of(users: int) -> NDArray[np.int64]:
    """Return log-uniform numbers of events, 20 to 5,000, evenly spread and shuffled."""
    even = np.exp(np.linspace(np.log(SHORTEST), np.log(LONGEST), users))
    return np.random.default_rng(1).permutation(np.rint(even).astype(np.int64))


def write_log(folder: Path, sizes: Sizes) -> None:
    """Write the log: popular items are popular in histories and among the ads shown."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    category = rng.integers(0, CATEGORIES, ADS).astype(str)
    items = np.arange(ADS).astype(str)
    pl.DataFrame({"ad_id": items, "category": category}).write_parquet(folder / "ads.parquet")
    names = np.array(
        [f"u{user}" for user in range(sizes.users)] + [f"m{user}" for user in range(sizes.mixed)]
    )
    events = np.concatenate([np.full(sizes.users, sizes.events), lengths_of(sizes.mixed)])
    count = int(events.sum())
    drawn = (ADS * rng.random(count) ** 2).astype(np.int64)  # the first percent of the items has a tenth
    pl.DataFrame(
        {
            "user_id": np.repeat(names, events),
            "timestamp": LAST - rng.integers(0, SPAN_S, count),
            "item_id": items[drawn],
            "category": category[drawn],
        }
    ).write_parquet(folder / "behaviors.parquet")
    _impressions(rng, names).write_parquet(folder / "impressions.parquet")
    (folder / "schema.toml").write_text(SCHEMA)


def _impressions(rng: np.random.Generator, names: NDArray[np.str_]) -> pl.DataFrame:
    """Return requests of some users, every fourth in validation and every fourth in test."""
    rows = REQUESTS * PER_REQUEST
    number = np.arange(REQUESTS)
    at = LAST - np.array([2500, 2500, 1500, 500])[number % 4]
    return pl.DataFrame(
        {
            "user_id": np.repeat(rng.choice(names, REQUESTS, replace=False), PER_REQUEST),
            "timestamp": np.repeat(at, PER_REQUEST),
            "request_id": np.repeat(number.astype(str), PER_REQUEST),
            "ad_id": np.concatenate([rng.choice(ADS, PER_REQUEST, replace=False) for _ in number]).astype(
                str
            ),
            "clicked": (rng.random(rows) < 0.2).astype(np.int8),
        }
    )
