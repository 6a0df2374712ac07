"""A log, a dataset, a run and a bundle small enough to make in a test, with every kind of field in them.

Each is made once per test process by the real `prepare`, `train` and `export` and copied to where a test wants it.
The weights of a run are then drawn anew with ordinary sizes: a model trained for one epoch on nothing scores
every ad alike, and would hide mistakes.
"""

import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl

HISTORY_LENGTH = 12
START = 1_500_000_000
DAY = 86_400
SCHEMA = f"""
actions = ["view", "purchase"]
[split]
validation_from = {START + 60 * DAY}
test_from = {START + 80 * DAY}
[train]
embedding_width = 8
[vocabularies.product]
kind = "exact"
min_count = 2
oov_buckets = 3
[vocabularies.category]
kind = "exact"
[vocabularies.user]
kind = "hashed"
rows = 16
[vocabularies.small]
kind = "exact"
oov_buckets = 2
[[behavior]]
name = "product_id"
type = "categorical"
vocabulary = "product"
[[behavior]]
name = "category"
type = "categorical"
vocabulary = "category"
optional = true
[[behavior]]
name = "paid"
type = "numeric"
transform = "log1p"
optional = true
[[ad]]
name = "ad_id"
type = "categorical"
vocabulary = "product"
matches = "product_id"
[[ad]]
name = "category"
type = "categorical"
vocabulary = "category"
matches = "category"
optional = true
[[ad]]
name = "price"
type = "numeric"
transform = "standard"
default = 3.0
optional = true
[[user]]
name = "user_id"
type = "categorical"
vocabulary = "user"
[[user]]
name = "segment"
type = "categorical"
vocabulary = "small"
[[user]]
name = "age"
type = "numeric"
default = 40.0
[[context]]
name = "placement"
type = "categorical"
vocabulary = "small"
[[context]]
name = "hour"
type = "numeric"
[[context]]
name = "position"
type = "numeric"
at_serving = 1
"""
USERS, ADS, EVENTS, REQUESTS, CANDIDATES = 30, 25, 700, 240, 6


def tiny_log(tmp_path: Path) -> Path:
    """Return a log folder: 30 users of very different activity, 25 ads, every field, some values missing."""
    return _copy(_log(), tmp_path / "log")


def tiny_dataset(tmp_path: Path) -> Path:
    """Return the dataset of `tiny_log`."""
    return _copy(_dataset(), tmp_path / "dataset")


def tiny_run(tmp_path: Path, model: str = "tin") -> Path:
    """Return a run folder of a model with random weights, L = 12; `tmp_path/run-<model>`."""
    return _copy(_run(model), tmp_path / f"run-{model}")


def tiny_bundle(tmp_path: Path, model: str = "tin") -> Path:
    """Return a bundle of a model with random weights, L = 12; `tmp_path/bundle-<model>`."""
    return _copy(_bundle(model), tmp_path / f"bundle-{model}")


@cache
def _home() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="longsight-tiny-")


def _place(name: str) -> Path:
    return Path(_home().name) / name


def _copy(made: Path, target: Path) -> Path:
    shutil.copytree(made, target)
    return target


@cache
def _log() -> Path:
    folder = _place("log")
    folder.mkdir()
    rng = np.random.default_rng(7)
    (folder / "schema.toml").write_text(SCHEMA)
    _ads(rng).write_parquet(folder / "ads.parquet")
    _users(rng).write_parquet(folder / "users.parquet")
    _behaviors(rng).write_parquet(folder / "behaviors.parquet")
    _impressions(rng).write_parquet(folder / "impressions.parquet")
    return folder


def _ads(rng: np.random.Generator) -> pl.DataFrame:
    price = [None if i % 9 == 0 else round(float(p), 2) for i, p in enumerate(rng.lognormal(1, 0.7, ADS))]
    category = [None if i % 11 == 3 else f"c{i % 4}" for i in range(ADS)]
    return pl.DataFrame(
        {"ad_id": [str(100 + i) for i in range(ADS)], "category": category, "price": price},
        schema={"ad_id": pl.String, "category": pl.String, "price": pl.Float64},
    )


def _users(rng: np.random.Generator) -> pl.DataFrame:
    known = range(1, USERS)  # user 0 has no profile
    age = [None if i % 7 == 0 else int(rng.integers(18, 80)) for i in known]
    return pl.DataFrame(
        {"user_id": list(known), "segment": [f"s{i % 3}" for i in known], "age": age},
        schema={"user_id": pl.Int64, "segment": pl.String, "age": pl.Int64},
    )


def _behaviors(rng: np.random.Generator) -> pl.DataFrame:
    # user 1 never acts; the others from a few events to several times L
    users = 2 + np.minimum(rng.geometric(0.15, EVENTS), USERS - 2) - 1
    products = rng.integers(0, ADS + 10, EVENTS)
    return pl.DataFrame(
        {
            "user_id": users,
            "timestamp": START + rng.integers(0, 100 * DAY, EVENTS),
            "product_id": [str(100 + p) for p in products],
            "category": [None if p % 13 == 0 else f"c{p % 4}" for p in products],
            "paid": [None if p % 5 == 0 else float(p) for p in products],
            "action": np.where(rng.random(EVENTS) < 0.3, "purchase", "view"),
        }
    )


def _impressions(rng: np.random.Generator) -> pl.DataFrame:
    users = rng.integers(0, USERS, REQUESTS)
    times = START + rng.integers(5 * DAY, 100 * DAY, REQUESTS)
    rows = REQUESTS * CANDIDATES
    ads = np.concatenate([rng.choice(ADS, CANDIDATES, replace=False) for _ in range(REQUESTS)])
    return pl.DataFrame(
        {
            "user_id": np.repeat(users, CANDIDATES),
            "ad_id": [str(100 + ad) for ad in ads],
            "timestamp": np.repeat(times, CANDIDATES),
            "request_id": [f"r{i // CANDIDATES}" for i in range(rows)],
            "clicked": (rng.random(rows) < 0.15 + 0.3 * (ads % 4 == 0)).astype(np.int8),
            "sampling_rate": np.ones(rows),
            "placement": [["top", "side", None][i] for i in rng.integers(0, 3, rows)],
            "hour": np.repeat(times // 3600 % 24, CANDIDATES),
            "position": np.tile(np.arange(1, CANDIDATES + 1), REQUESTS),
        }
    )


@cache
def _dataset() -> Path:
    from training.prepare import prepare

    prepare(_log(), _place("dataset"))
    return _place("dataset")


@cache
def _run(model: str) -> Path:
    import torch

    from training.train import train

    run = _place(f"run-{model}")
    history_length = 1 if model == "popularity" else HISTORY_LENGTH
    settings = {"history_length": history_length, "epochs": 1}
    if model == "diffumin":
        settings |= {"diffusion": True, "diffusion_steps": 2, "short_term_length": 5}  # each step is traced
    train(_dataset(), run, model=model, settings=settings, seed=3)
    weights = torch.load(run / "checkpoint.pt", weights_only=True)
    generator = torch.Generator().manual_seed(5)
    spread = 0.1 if model == "diffumin" else 0.3  # deeper: its probabilities would be 0 and 1
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not name.endswith(("running_mean", "running_var")):
            drawn = torch.randn(tensor.shape, generator=generator) * spread
            if tensor.ndim == 2 and not tensor[0].any():
                drawn[0] = 0.0  # the row of padding
            weights[name] = drawn if tensor.ndim == 2 else tensor + drawn
    torch.save(weights, run / "checkpoint.pt")
    return run


@cache
def _bundle(model: str) -> Path:
    from export.exporter import export

    export(_run(model), _place(f"bundle-{model}"))
    return _place(f"bundle-{model}")
