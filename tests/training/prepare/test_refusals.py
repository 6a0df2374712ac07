"""What is wrong with a log is said in one line that names the place, however the log is cut; nothing is written."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from contract.errors import DatasetError, InputError, LogError
from contract.log import packing
from tests.support.logs import write_log
from training.prepare import Sizes, prepare

PIECES = Sizes(150, 150, 2)
CUTS = [pytest.param(PIECES, id="in pieces"), pytest.param(None, id="whole")]
Change = Callable[[pl.DataFrame], pl.DataFrame]


@pytest.fixture(name="log")
def _log(tmp_path: Path) -> Path:
    return write_log(tmp_path / "log", users=8, requests=6)


def change(log: Path, table: str, how: Change) -> None:
    """Write a table of the log again, changed."""
    path = log / f"{table}.parquet"
    frame = pl.read_parquet(path)
    how(frame).write_parquet(path)


def put(column: str, row: int, value: object) -> Change:
    """Return a change of one value."""

    def how(frame: pl.DataFrame) -> pl.DataFrame:
        values = frame[column].to_list()
        values[row] = value
        return frame.with_columns(pl.Series(column, values, dtype=frame[column].dtype))

    return how


def again(row: int, **changed: object) -> Change:
    """Return a change that appends a row once more, with other values in some columns."""

    def how(frame: pl.DataFrame) -> pl.DataFrame:
        copy = frame[row : row + 1].with_columns(
            pl.lit(value, dtype=frame[name].dtype).alias(name) for name, value in changed.items()
        )
        return pl.concat([frame, copy])

    return how


def refusal(log: Path, sizes: Sizes | None) -> str:
    """Return what `prepare` says; it must leave nothing behind."""
    with pytest.raises(InputError) as refused:
        prepare(log, log.parent / "d", sizes=sizes)
    assert [path.name for path in log.parent.iterdir()] == ["log"]
    assert "\n" not in str(refused.value)
    return str(refused.value).removeprefix(f"{log}/")


@pytest.mark.parametrize("sizes", CUTS)
def test_a_bad_value_late_in_a_table_is_named_by_its_row_in_the_file(log: Path, sizes: Sizes) -> None:
    change(log, "behaviors", put("spent", 333, float("inf")))
    assert (
        refusal(log, sizes) == "behaviors.parquet: column 'spent', row 333: inf is not finite; null = missing"
    )
    change(log, "impressions", put("ad_id", 301, None))
    assert (
        refusal(log, sizes)
        == "impressions.parquet: column 'ad_id', row 301: None is null; this column is required in every row"
    )


@pytest.mark.parametrize("sizes", CUTS)
def test_an_ad_twice_in_a_request_is_refused(log: Path, sizes: Sizes) -> None:
    change(log, "impressions", again(42))
    ad = pl.read_parquet(log / "impressions.parquet")["ad_id"][42]
    assert refusal(log, sizes) == (
        f"impressions.parquet: column 'ad_id', row 384: {ad} appears twice in one request (first in row 42); "
        "keep one of the two"
    )


@pytest.mark.parametrize("sizes", CUTS)
def test_without_request_ids_rows_of_one_second_are_a_request(log: Path, sizes: Sizes) -> None:
    change(log, "impressions", lambda frame: again(42)(frame).drop("request_id"))
    assert "row 384" in refusal(log, sizes)


@pytest.mark.parametrize("sizes", CUTS)
def test_a_click_that_contradicts_another_row_is_refused(log: Path, sizes: Sizes) -> None:
    clicked = pl.read_parquet(log / "impressions.parquet")["clicked"][200]
    change(log, "impressions", again(200, clicked=1 - clicked))
    change(log, "impressions", again(300))
    assert refusal(log, sizes) == (
        f"impressions.parquet: column 'clicked', row 384: {1 - clicked} contradicts row 200, the same ad in the same "
        "request; keep one of the two"
    )


@pytest.mark.parametrize("sizes", CUTS)
def test_the_same_ad_in_two_requests_is_fine(log: Path, tmp_path: Path, sizes: Sizes) -> None:
    change(log, "impressions", again(42, request_id="another"))
    assert prepare(log, tmp_path / "d", sizes=sizes)["requests"] == 49


@pytest.mark.parametrize("sizes", CUTS)
@pytest.mark.parametrize("changed", [{"user_id": "u1"}, {"timestamp": 50_000}], ids=["users", "times"])
def test_a_request_of_two_users_or_times_is_refused(
    log: Path, sizes: Sizes, changed: dict[str, object]
) -> None:
    request = pl.read_parquet(log / "impressions.parquet")["request_id"][14]
    change(log, "impressions", again(14, **changed))
    assert refusal(log, sizes) == (
        f"impressions.parquet: column 'request_id', row 8: '{request}' has two users or timestamps; "
        "a request is one user at one time"
    )


@pytest.mark.parametrize("sizes", CUTS)
def test_rates_of_which_some_are_unknown_are_refused(log: Path, sizes: Sizes) -> None:
    change(log, "impressions", put("sampling_rate", 333, None))
    place = "impressions.parquet: column 'sampling_rate', row"
    assert refusal(log, sizes) == f"{place} 333: null among known rates; all or none"
    change(log, "impressions", put("sampling_rate", 7, 1.5))
    assert refusal(log, sizes) == f"{place} 7: 1.5 is outside (0, 1]; null = unknown"


@pytest.mark.parametrize("sizes", [pytest.param(Sizes(3, 150, 1), id="in pieces"), CUTS[1]])
def test_a_user_with_two_profiles_is_refused(log: Path, sizes: Sizes) -> None:
    change(log, "users", again(1, city="elsewhere"))
    assert refusal(log, sizes) == "users.parquet: column 'user_id', row 4: 'u2' appears twice"


@pytest.mark.parametrize("table", ["behaviors", "impressions", "ads", "users"])
def test_a_table_without_rows_is_refused(log: Path, table: str) -> None:
    change(log, table, lambda frame: frame.clear())
    assert refusal(log, None).startswith(f"{table}.parquet: holds no rows; ")
    (log / f"{table}.parquet").write_bytes(b"")
    assert refusal(log, None).startswith(f"{table}.parquet: is an empty file (0 bytes); ")


@pytest.mark.parametrize(
    ("first", "second", "name", "bound"),
    [
        (500, 50_000, "train", "before 500 (1970-01-01 00:08:20 UTC)"),
        (
            50_000,
            50_001,
            "validation",
            "from 50000 (1970-01-01 13:53:20 UTC) to before 50001 (1970-01-01 13:53:21 UTC)",
        ),
        (50_000, 200_000, "test", "from 200000 (1970-01-03 07:33:20 UTC) on"),
    ],
)
def test_an_empty_split_is_refused_with_its_bounds(
    log: Path, first: int, second: int, name: str, bound: str
) -> None:
    times = pl.read_parquet(log / "impressions.parquet")["timestamp"]
    with pytest.raises(DatasetError) as refused:
        prepare(log, log.parent / "d", validation_from=first, test_from=second, sizes=PIECES)
    message = str(refused.value)
    assert (
        f"impressions.parquet: no request in the {name} split ({bound}); the impressions run from" in message
    )
    assert f"run from {times.min()} (1970-01-01" in message
    assert f" to {times.max()} (1970-01-0" in message
    assert [path.name for path in log.parent.iterdir()] == ["log"]


@pytest.mark.parametrize("sizes", [pytest.param(Sizes(150, 10**6, 1), id="in pieces"), CUTS[1]])
def test_two_users_of_one_key_are_refused(log: Path, sizes: Sizes, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = packing.keys.keys_of_texts
    first, second = (hashed(text, pl.Series([2]).to_numpy())[0] for text in (b"u1", b"u2"))

    def clashing(blob: bytes, lengths: pl.Series) -> object:
        made = hashed(blob, lengths)
        made[made == second] = first
        return made

    monkeypatch.setattr(packing.keys, "keys_of_texts", clashing)
    with pytest.raises(LogError, match=r"'u[12]' and 'u[12]' have the same key; rename one"):
        prepare(log, log.parent / "d", sizes=sizes)
