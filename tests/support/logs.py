"""A small log with a taste to learn: people click on ads of the kind they bought before."""

from pathlib import Path

import numpy as np
import polars as pl

SCHEMA_TOML = """
actions = ["view", "buy"]
[split]
validation_from = 70000
test_from = 85000
[vocabularies.item]
kind = "exact"
min_count = 2
oov_buckets = 4
[vocabularies.kind]
kind = "exact"
[vocabularies.slot]
kind = "exact"
[vocabularies.city]
kind = "hashed"
rows = 16
[[behavior]]
name = "item_id"
type = "categorical"
vocabulary = "item"
[[behavior]]
name = "kind"
type = "categorical"
vocabulary = "kind"
optional = true
[[behavior]]
name = "spent"
type = "numeric"
transform = "log1p"
[[ad]]
name = "ad_id"
type = "categorical"
vocabulary = "item"
matches = "item_id"
[[ad]]
name = "kind"
type = "categorical"
vocabulary = "kind"
matches = "kind"
[[ad]]
name = "price"
type = "numeric"
transform = "standard"
default = 1.0
optional = true
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
ITEMS, KINDS = 60, 6


def write_log(
    path: Path, *, users: int = 40, events: int = 60, requests: int = 12, ads: int = 8, seed: int = 0
) -> Path:
    """Write a log folder: each user buys mostly two kinds of item and clicks on ads of those kinds."""
    path.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    (path / "schema.toml").write_text(SCHEMA_TOML)
    loves = generator.integers(0, KINDS, (users, 2))
    _behaviors(generator, loves, events).write_parquet(path / "behaviors.parquet")
    _impressions(generator, loves, requests, ads).write_parquet(path / "impressions.parquet")
    items = np.arange(ITEMS)
    prices = [None if item % 7 == 0 else float(item % 5 + 1) for item in items]
    pl.DataFrame(
        {
            "ad_id": items,
            "kind": [f"k{item % KINDS}" for item in items],
            "price": prices,
            "name": [f"item {i}" for i in items],
        }
    ).write_parquet(path / "ads.parquet")
    shown = np.arange(0, users, 2)
    pl.DataFrame({"user_id": [f"u{i}" for i in shown], "city": [f"c{i % 5}" for i in shown]}).write_parquet(
        path / "users.parquet"
    )
    return path


def _behaviors(generator: np.random.Generator, loves: np.ndarray, events: int) -> pl.DataFrame:
    rows = []
    for user, kinds in enumerate(loves):
        for _ in range(int(generator.integers(1, 2 * events))):
            kind = (
                int(generator.choice(kinds)) if generator.random() < 0.9 else int(generator.integers(KINDS))
            )
            item = kind + KINDS * int(generator.integers(ITEMS // KINDS))
            action = "buy" if generator.random() < 0.5 else "view"
            label = None if item % 11 == 0 else f"k{kind}"
            rows.append(
                (f"u{user}", int(generator.integers(1, 100_000)), item, label, float(item % 9), action)
            )
    names = ["user_id", "timestamp", "item_id", "kind", "spent", "action"]
    return pl.DataFrame(rows, schema=names, orient="row")


def _impressions(generator: np.random.Generator, loves: np.ndarray, requests: int, ads: int) -> pl.DataFrame:
    rows = []
    for user, kinds in enumerate(loves):
        for _ in range(requests):
            time, request = int(generator.integers(1000, 100_000)), f"r{len(rows)}"
            for position, item in enumerate(generator.choice(ITEMS, ads, replace=False)):
                chance = 0.7 if item % KINDS in kinds else 0.08
                clicked = int(generator.random() < chance)
                slot = None if item % 13 == 0 else "top" if position < 3 else "rest"
                rows.append(
                    (f"u{user}", int(item), time, clicked, request, 1.0 if clicked else 0.5, slot, position)
                )
    names = ["user_id", "ad_id", "timestamp", "clicked", "request_id", "sampling_rate", "slot", "position"]
    return pl.DataFrame(rows, schema=names, orient="row")
