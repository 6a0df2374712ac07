"""A small Complete Journey, made by hand, with every trap of the real one planted once."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

Tables = dict[str, pl.DataFrame]

# household, basket, store, week, timestamp, product
PURCHASES = [
    (7, 101, 1, 40, "2017-10-02 18:00:00", 10),
    (7, 101, 1, 40, "2017-10-02 18:00:00", 20),
    (7, 101, 1, 40, "2017-10-02 18:00:00", 20),  # a product on two lines of one basket
    (7, 101, 1, 40, "2017-10-02 18:00:00", 99),  # unknown to products
    (7, 102, 1, 40, "2017-10-02 18:00:00", 30),  # a second basket in the same second
    (7, 103, 2, 42, "2017-10-09 04:30:00", 10),  # 42 begins
    (7, 104, 1, 47, "2017-11-13 06:00:00", 40),
    (3, 105, 1, 41, "2017-10-09 03:30:00", 10),  # the last of 41
    (3, 106, 3, 40, "2017-10-02 19:00:00", 10),  # a store without promotions
    (3, 107, 1, 46, "2017-11-13 04:59:59", 20),
    (3, 108, 2, 43, "2017-10-20 12:00:00", 10),  # a store with promotions, but not in that week
    (5, 109, 1, 47, "2017-11-14 23:30:00", 10),  # buys nothing promoted
]
# product, store, week, display, mailer
PROMOTED = [
    (20, 1, 40, "7", "0"),
    (20, 1, 40, "0", "D"),  # the same promotion twice more: the smallest pair is 0, A
    (20, 1, 40, "0", "A"),
    (10, 1, 40, "A", "0"),
    (50, 1, 40, "0", "A"),
    (30, 2, 42, "3", "0"),
    (10, 2, 42, "3", "A"),
    (10, 1, 41, "9", "0"),
    (20, 1, 46, "0", "A"),
    (50, 1, 46, "0", "A"),
    (60, 1, 47, "0", " "),  # blank: not known
    (40, 1, 47, "0", "H"),
]
PRODUCTS = [
    (10, 1, "GROCERY", "National", "CHEESE", "SHREDDED CHEESE", "8 OZ"),
    (20, 1, "GROCERY", "Private", "MILK", "WHOLE MILK", None),
    (30, None, "PRODUCE", "National", None, None, "1 LB"),
    (40, 2, "", "National", "BREAD", " ", None),
    (50, 2, "GROCERY", "Private", None, None, None),
    (60, 3, "MEAT", "National", "BEEF", "STEAK", "1 LB"),
]


def _tables() -> Tables:
    bought = ["household_id", "basket_id", "store_id", "week", "transaction_timestamp", "product_id"]
    promoted = ["product_id", "store_id", "week", "display_location", "mailer_location"]
    product = ["product_id", "manufacturer_id", "department", "brand"]
    product += ["product_category", "product_type", "package_size"]
    time = pl.col("transaction_timestamp").str.to_datetime(time_unit="ns")
    people = {
        "household_id": [3, 8, 7],
        "age": ["65+", "19-24", None],
        "income": ["35-49K", "50-74K", "15-24K"],
    }
    rest = ("home_ownership", "marital_status", "household_size", "household_comp", "kids_count")
    return {
        "transactions": pl.DataFrame(PURCHASES, bought, orient="row").with_columns(time),
        "promotions": pl.DataFrame(PROMOTED, promoted, orient="row"),
        "products": pl.DataFrame(PRODUCTS, product, orient="row"),
        "demographics": pl.DataFrame(people | {name: ["x", "y", "z"] for name in rest}),
    }


def _write(folder: Path, tables: Tables) -> Path:
    folder.mkdir(exist_ok=True)
    for name, frame in tables.items():
        frame.write_parquet(folder / f"{name}.parquet")
    return folder


@pytest.fixture(name="tables")
def _tables_fixture() -> Tables:
    return _tables()


@pytest.fixture(name="write_raw")
def _write_raw(tmp_path: Path) -> Callable[[Tables], Path]:
    """Write tables as a raw folder and return it."""
    return lambda tables: _write(tmp_path / "raw", tables)


@pytest.fixture(name="raw")
def _raw(tables: Tables, write_raw: Callable[[Tables], Path]) -> Path:
    return write_raw(tables)


@pytest.fixture(name="second")
def _second() -> Callable[[str], int]:
    """Epoch second of a UTC time as it stands in the raw tables."""
    return lambda text: int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())
