"""The raw tables of The Complete Journey, read, checked and turned into behaviours, users and ads.

Knows nothing of promotions, negatives or of the folder that the frames go to.
"""

from typing import NamedTuple

import numpy as np
import polars as pl

from contract.errors import InputError, LogError
from training.importers.complete_journey_schema import PRODUCT_FIELDS, USER_FIELDS
from training.importers.promotions import Ints
from training.importers.raw_tables import Column, RawTables, blank_as_null

VALIDATION_WEEK = 42
TEST_WEEK = 47
LAST_SECOND = (1 << 32) - 1
TRIP = ["household_id", "timestamp", "basket_id", "store_id", "week"]

_ID = Column("integer")
_LABEL = Column("text", nullable=True)
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
        "department": _LABEL,
        "brand": _LABEL,
        "product_category": _LABEL,
        "product_type": _LABEL,
        "package_size": _LABEL,
    },
    "promotions": {
        "product_id": _ID,
        "store_id": _ID,
        "display_location": Column("text"),
        "mailer_location": Column("text"),
        "week": _ID,
    },
    "demographics": {"household_id": _ID, **dict.fromkeys(USER_FIELDS, _LABEL)},
}


class Split(NamedTuple):
    """First second of validation and of test, in epoch seconds."""

    validation_from: int
    test_from: int


def read_lines(tables: RawTables) -> pl.DataFrame:
    """Return the purchase lines ordered by TRIP and product_id (its columns), whatever the order of the file.

    A timestamp without a time zone is taken for UTC.

    Raises:
        LogError: no rows, a timestamp that 32 bits of seconds can't hold, or a basket that is not one trip.

    """
    seconds = pl.col("transaction_timestamp").dt.epoch("s").alias("timestamp")
    lines = tables.read("transactions").with_columns(seconds).select(*TRIP, "product_id")
    path = tables.path("transactions")
    if lines.is_empty():
        raise LogError(f"{path}: no rows")
    outside = (~lines["timestamp"].is_between(0, LAST_SECOND)).arg_true()
    if len(outside):
        raise LogError(f"{path}: column 'transaction_timestamp', row {outside[0]}: not between 1970 and 2106")
    several = "belongs to more than one household, store, week or timestamp"
    tables.refuse_repeats("transactions", lines.select(TRIP).unique(), "basket_id", several)
    return lines.sort(*TRIP, "product_id")


def find_split(lines: pl.DataFrame, tables: RawTables) -> Split:
    """Find the seconds that part training (weeks <= 41), validation (42-46) and test weeks (>= 47).

    Raises:
        LogError: there is nothing on one side of a boundary, or the weeks on its two sides overlap in time.

    """
    where = f"{tables.path('transactions')}: column 'week'"
    starts = []
    for week in (VALIDATION_WEEK, TEST_WEEK):
        before = lines.filter(pl.col("week") < week)["timestamp"].max()
        start = lines.filter(pl.col("week") >= week)["timestamp"].min()
        if not isinstance(before, int) or not isinstance(start, int):
            raise LogError(
                f"{where}: no rows before or none from week {week} on; the split by time needs both"
            )
        if before >= start:
            raise LogError(
                f"{where}: week {week} begins at {start}, but an earlier week lasts until {before}"
            )
        starts.append(start)
    return Split(*starts)


def sample_households(lines: pl.DataFrame, count: int | None, rng: np.random.Generator) -> pl.DataFrame:
    """Return all lines of `count` random households (None: of all); raise `InputError` if there are fewer."""
    if count is None:
        return lines
    known = lines["household_id"].unique().sort().to_numpy()
    if not 1 <= count <= len(known):
        raise InputError(f"--households {count}: expected 1 to {len(known)}, as many as there are")
    chosen = pl.DataFrame({"household_id": rng.choice(known, size=count, replace=False)})
    return lines.join(chosen, on="household_id", how="semi", maintain_order="left")


def training_lines(lines: pl.DataFrame, product_ids: Ints) -> Ints:
    """Count the training-week lines of each product, [A], in all stores."""
    sold = lines.filter(pl.col("week") < VALIDATION_WEEK).group_by("product_id").len("lines")
    wanted = pl.DataFrame({"product_id": product_ids})
    counted = wanted.join(sold, on="product_id", how="left", maintain_order="left")
    return counted["lines"].fill_null(0).cast(pl.Int64).to_numpy()


def read_products(tables: RawTables) -> pl.DataFrame:
    """Return product_id, the product fields and package_size, one row per product; blank text is null."""
    frame = tables.read("products")
    tables.refuse_repeats("products", frame, "product_id", "appears twice")
    texts = [name for name, column in TABLES["products"].items() if column.kind == "text"]
    return frame.with_columns(blank_as_null(name) for name in texts)


def behaviors_frame(lines: pl.DataFrame, products: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Return behaviors.parquet, by household and time.

    All lines of a basket share one second, and the source lists them by product id, an order no model should
    learn from: among equal seconds it is a seeded shuffle.
    """
    fields = products.select("product_id", *PRODUCT_FIELDS)
    shuffled = lines.with_columns(pl.Series("place", rng.permutation(len(lines))))
    ordered = shuffled.sort("household_id", "timestamp", "place")
    return ordered.join(fields, on="product_id", how="left", maintain_order="left").select(
        pl.col("household_id").alias("user_id"),
        "timestamp",
        pl.lit("purchase").alias("action"),
        "product_id",
        *PRODUCT_FIELDS,
    )


def users_frame(lines: pl.DataFrame, tables: RawTables) -> pl.DataFrame:
    """Return users.parquet: the households of `lines` whose demographics are known, by id."""
    frame = tables.read("demographics").with_columns(blank_as_null(name) for name in USER_FIELDS)
    tables.refuse_repeats("demographics", frame, "household_id", "appears twice")
    present = frame.join(lines.select("household_id").unique(), on="household_id", how="semi")
    return present.sort("household_id").select(pl.col("household_id").alias("user_id"), *USER_FIELDS)


def ads_frame(product_ids: Ints, products: pl.DataFrame) -> pl.DataFrame:
    """Return ads.parquet: the given products in their order, with their fields and a name for display."""
    label = pl.coalesce("product_type", "product_category", pl.format("product {}", "product_id"))
    name = pl.concat_str(label, "package_size", separator=", ", ignore_nulls=True).alias("name")
    promoted = pl.DataFrame({"product_id": product_ids})
    ads = promoted.join(products, on="product_id", how="left", maintain_order="left")
    return ads.select(pl.col("product_id").alias("ad_id"), *PRODUCT_FIELDS, name)
