"""A log folder is checked before it is used: every refusal names file, column and first bad row."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import keys
from contract.errors import LogError, SchemaError
from contract.log import Log, key_series, pack_series, read_log, unique_ids
from contract.schema import SchemaField

SCHEMA = """
actions = ["view", "buy"]
[split]
validation_from = 1000
test_from = 2000
[vocabularies.item]
kind = "exact"
[vocabularies.mailer]
kind = "exact"
[[behavior]]
name = "item_id"
type = "categorical"
vocabulary = "item"
[[behavior]]
name = "price"
type = "numeric"
optional = true
[[ad]]
name = "ad_id"
type = "categorical"
vocabulary = "item"
matches = "item_id"
[[user]]
name = "age"
type = "numeric"
[[context]]
name = "mailer"
type = "categorical"
vocabulary = "mailer"
"""
TABLES = {
    "behaviors": {
        "user_id": ["u", "u", "u", "v"],
        "timestamp": [30, 10, 10, 20],
        "action": ["view", "buy", "buy", "view"],
        "item_id": [1, 2, 2, 3],
        "price": [1.0, None, None, 2.0],
        "ignored": [[1], [2], [3], [4]],
    },
    "impressions": {
        "user_id": ["u", "v"],
        "ad_id": [1, 9],
        "timestamp": [40, 50],
        "clicked": [1, 0],
        "request_id": ["a", "b"],
        "sampling_rate": [1.0, 0.5],
        "mailer": ["A", None],
    },
    "ads": {"ad_id": [1, 2], "name": ["one", "two"]},
    "users": {"user_id": ["u"], "age": [30]},
}

Write = Callable[..., Log]


@pytest.fixture(name="write")
def _write(tmp_path: Path) -> Write:
    def write(
        table: str = "", column: str = "", values: list[object] | None = None, **types: pl.DataType
    ) -> Log:
        (tmp_path / "schema.toml").write_text(SCHEMA)
        for name, columns in TABLES.items():
            data: dict[str, list[object]] = dict(columns)  # type: ignore[arg-type]
            if name == table and values is None:
                del data[column]
            elif name == table and values is not None:
                data[column] = values
            pl.DataFrame(data, strict=False, schema_overrides=types or None).write_parquet(
                tmp_path / f"{name}.parquet"
            )
        return read_log(tmp_path)

    return write


def test_a_good_log_is_packed_per_user_in_time_order_without_duplicates(write: Write) -> None:
    histories = write().histories()
    by_text = dict(zip(histories.user_texts, range(2), strict=True))
    assert histories.user_keys.tolist() == sorted(keys.key(user) for user in ("u", "v"))
    u = by_text["u"]
    records = histories.records[histories.offsets[u] : histories.offsets[u + 1]]
    assert records["timestamp"].tolist() == [10, 30]
    assert records["item_id"].tolist() == [keys.key(2), keys.key(1)]
    assert records["action"].tolist() == [2, 1]


def test_until_leaves_out_that_second_and_later(write: Write) -> None:
    assert write().histories(until=30).records["timestamp"].max() == 20


def test_without_an_action_column_every_event_is_the_first_action(write: Write) -> None:
    assert set(write("behaviors", "action").histories().records["action"].tolist()) == {1}


def test_optional_columns_of_impressions_may_be_absent(write: Write) -> None:
    for column in ("request_id", "sampling_rate", "mailer"):
        assert write("impressions", column).impressions[column].null_count() == 2


@pytest.mark.parametrize("dtype", [pl.Int8(), pl.Int32(), pl.UInt32(), pl.UInt64()])
def test_times_may_be_integers_of_any_width(write: Write, dtype: pl.DataType) -> None:
    frame = write("behaviors", "timestamp", [30, 10, 10, 20], timestamp=dtype).behaviors
    assert frame["timestamp"].dtype == pl.Int64
    assert frame["timestamp"].to_list() == [30, 10, 10, 20]


def test_a_long_value_is_shown_in_part(write: Write) -> None:
    with pytest.raises(LogError, match="is longer than 256 bytes") as refusal:
        write("behaviors", "user_id", ["x" * 1_000_000, "b", "c", "d"]).behaviors  # noqa: B018
    assert len(str(refusal.value)) < 500


def test_users_are_optional(write: Write) -> None:
    log = write()
    (log.path / "users.parquet").unlink()
    assert log.users is None


@pytest.mark.parametrize(
    ("table", "column", "values", "message"),
    [
        ("behaviors", "user_id", None, r"behaviors\.parquet: column 'user_id' is missing"),
        ("behaviors", "item_id", None, "'item_id' is missing"),
        ("behaviors", "item_id", [1, None, 2, 3], "column 'item_id', row 1: None is null"),
        (
            "behaviors",
            "item_id",
            [1.5, 2.0, 2.0, 3.0],
            "'item_id' is Float64; it must be a string or an integer",
        ),
        ("behaviors", "item_id", ["", "b", "c", "d"], "row 0: '' is empty"),
        ("behaviors", "user_id", ["x" * 257, "b", "c", "d"], "row 0: .* longer than 256 bytes"),
        (
            "behaviors",
            "timestamp",
            [30, 10, 10, 1514300000000],
            "row 3: 1514300000000 looks like milliseconds",
        ),
        ("behaviors", "timestamp", [30, -10, 10, 20], "row 1: -10 is negative"),
        ("behaviors", "timestamp", [30, 2**64 - 1, 10, 20], "row 1: 18446744073709551615 looks like"),
        ("behaviors", "timestamp", [30, 2**32, 10, 20], "row 1: 4294967296 is later"),
        (
            "behaviors",
            "timestamp",
            [30.0, 10.0, 10.0, 20.0],
            "'timestamp' is Float64; it must be int64 seconds",
        ),
        (
            "behaviors",
            "action",
            ["view", "buy", "sell", "view"],
            "row 2: 'sell' is an action that the schema",
        ),
        ("behaviors", "price", ["a", "b", "c", "d"], "'price' is String; it must be a number"),
        ("behaviors", "price", [1.0, float("nan"), 2.0, 3.0], "row 1: nan is not finite"),
        ("behaviors", "price", [1.0, 2.0, -1e39, 3.0], "row 2: -1e\\+39 is too large a number"),
        ("impressions", "clicked", [1, 2], "row 1: 2 is neither 0 nor 1"),
        ("impressions", "clicked", [1, 2**64 - 1], "row 1: 18446744073709551615 is neither 0 nor 1"),
        ("impressions", "clicked", [None, 1], "row 0: None is null"),
        ("impressions", "clicked", [0.0, 1.0], "'clicked' is Float64"),
        ("impressions", "sampling_rate", [1.0, 0.0], r"row 1: 0.0 is outside \(0, 1\]"),
        ("impressions", "sampling_rate", [1.0, float("nan")], r"row 1: nan is outside \(0, 1\]"),
        ("impressions", "sampling_rate", [1.0, None], "row 1: null among known rates"),
        ("impressions", "request_id", ["a", "a"], "row 0: 'a' has two users or timestamps"),
        ("impressions", "mailer", [0.5, 1.5], "'mailer' is Float64"),
        ("ads", "ad_id", [1, 1], "row 1: 1 appears twice"),
        ("users", "age", ["old"], "'age' is String"),
    ],
)
def test_a_bad_value_is_named_with_its_place(
    write: Write, table: str, column: str, values: list[object] | None, message: str
) -> None:
    log = write(table, column, values)
    with pytest.raises(LogError, match=message) as refusal:
        getattr(log, table)
    assert "\n" not in str(refusal.value)
    assert f"{table}.parquet" in str(refusal.value)


def test_a_missing_folder_file_or_schema_is_named(write: Write, tmp_path: Path) -> None:
    with pytest.raises(LogError, match="no such folder"):
        read_log(tmp_path / "nowhere")
    log = write()
    (tmp_path / "ads.parquet").unlink()
    with pytest.raises(LogError, match=r"ads\.parquet: no such file"):
        _ = log.ads
    (tmp_path / "ads.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(LogError, match=r"ads\.parquet: not readable as Parquet"):
        _ = log.ads
    (tmp_path / "schema.toml").unlink()
    with pytest.raises(SchemaError, match="no such file"):
        read_log(tmp_path)


def test_ids_are_texts_whatever_their_type() -> None:
    texts, index = unique_ids(pl.Series([42, None, 7, 42]))
    assert [texts[i] if i >= 0 else None for i in index] == ["42", None, "7", "42"]


def test_a_chunk_holds_its_rows_checked_like_the_whole_table(write: Write) -> None:
    log = write()
    for table in ("behaviors", "impressions"):
        assert log.chunk(table, first=1, count=2).equals(getattr(log, table)[1:3])
    assert log.rows("behaviors") == 4
    assert log.value("behaviors", "item_id", 3) == 3


def test_a_bad_value_in_a_chunk_is_named_by_its_row_in_the_file(write: Write) -> None:
    log = write("behaviors", "price", [1.0, 2.0, float("nan"), 3.0])
    assert log.chunk("behaviors", first=0, count=2).height == 2
    with pytest.raises(LogError, match="column 'price', row 2: nan is not finite"):
        log.chunk("behaviors", first=1, count=3)


def test_a_file_of_no_bytes_is_named(write: Write) -> None:
    log = write()
    (log.path / "ads.parquet").write_bytes(b"")
    with pytest.raises(LogError, match=r"ads\.parquet: is an empty file"):
        _ = log.ads


@given(st.lists(st.one_of(st.none(), st.text(min_size=1, max_size=20), st.integers().map(str)), max_size=30))
def test_a_column_of_ids_is_packed_into_the_keys_of_its_texts(texts: list[str | None]) -> None:
    field = SchemaField(name="x", type="categorical", vocabulary="v")
    assert pack_series(pl.Series("x", texts, dtype=pl.String), field).tolist() == keys.keys(texts).tolist()


@pytest.mark.parametrize("bad", ["", "x" * 257])
def test_a_column_with_what_is_no_id_is_refused(bad: str) -> None:
    with pytest.raises(LogError, match="column 'x': id"):
        key_series(pl.Series("x", ["a", None, bad]))
