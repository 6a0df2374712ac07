"""A log becomes a dataset: histories are slices, strictly before the request."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from contract import keys
from contract.errors import DatasetError, InputError
from tests.support.logs import write_log
from training.dataset import SPLITS, Dataset
from training.prepare import Sizes, prepare


@pytest.fixture(name="log", scope="module")
def _log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("log"))


@pytest.fixture(name="dataset", scope="module")
def _dataset(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("dataset") / "d"
    prepare(log, path)
    return Dataset.open(path)


def test_every_request_sees_exactly_its_users_earlier_events(log: Path, dataset: Dataset) -> None:
    behaviors = pl.read_parquet(log / "behaviors.parquet").unique()
    impressions = pl.read_parquet(log / "impressions.parquet")
    for request in dataset.requests:
        logged = impressions[int(dataset.row("log_row")[request["first_row"]])]
        user, time = logged["user_id"][0], logged["timestamp"][0]
        earlier = behaviors.filter((pl.col("user_id") == user) & (pl.col("timestamp") < time))
        history = dataset.records[request["start"] : request["end"]]
        assert (request["timestamp"], len(history)) == (time, earlier.height)
        assert (np.diff(history["timestamp"].astype(np.int64)) >= 0).all()
        assert sorted(history["item_id"].tolist()) == sorted(keys.keys(earlier["item_id"]).tolist())


def test_rows_of_a_request_are_those_of_the_log(log: Path, dataset: Dataset) -> None:
    impressions = pl.read_parquet(log / "impressions.parquet")
    rows = np.asarray(dataset.row("log_row"))
    assert sorted(rows.tolist()) == list(range(impressions.height))
    assert np.asarray(dataset.row("clicked")).tolist() == impressions["clicked"].to_numpy()[rows].tolist()
    ads = dataset.ad_keys[np.asarray(dataset.row("ad"))]
    assert ads.tolist() == keys.keys(impressions["ad_id"].to_numpy()[rows]).tolist()


def test_splits_follow_time(dataset: Dataset) -> None:
    for code, name in enumerate(SPLITS):
        times = dataset.requests["timestamp"][dataset.requests["split"] == code]
        assert times.size, name
    train, validation, test = (
        dataset.requests["timestamp"][dataset.requests["split"] == code] for code in range(len(SPLITS))
    )
    assert train.max() < 70_000 <= validation.min() <= validation.max() < 85_000 <= test.min()


def test_a_lag_ends_histories_earlier(log: Path, dataset: Dataset, tmp_path: Path) -> None:
    prepare(log, tmp_path / "lagged", history_lag_s=5000)
    lagged = Dataset.open(tmp_path / "lagged")
    assert lagged.history_lag_s == 5000
    for now, before in zip(lagged.requests, dataset.requests, strict=True):
        history = dataset.records[before["start"] : before["end"]]
        assert now["end"] - now["start"] == (history["timestamp"] < int(before["timestamp"]) - 5000).sum()


def test_the_same_log_gives_the_same_dataset(log: Path, dataset: Dataset, tmp_path: Path) -> None:
    assert prepare(log, tmp_path / "again")["fingerprint"] == dataset.fingerprint


def test_names_with_wildcards_are_names(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log [1]*", users=10)
    prepare(log, tmp_path / "data [?]", sizes=Sizes(200, 200, 1))
    assert Dataset.open(tmp_path / "data [?]").impressions().height == 960


def test_a_user_without_events_and_an_ad_outside_the_catalogue_are_kept(log: Path, tmp_path: Path) -> None:
    copy = write_log(tmp_path / "log")
    impressions = pl.read_parquet(copy / "impressions.parquet")
    number = {"ad_id": 999_999, "timestamp": 90_000}
    row = impressions[:1].with_columns(
        pl.lit("stranger").alias("user_id"),
        pl.lit("new").alias("request_id"),
        *(pl.lit(value, dtype=pl.Int64).alias(name) for name, value in number.items()),
    )
    pl.concat([impressions, row.select(impressions.columns)]).write_parquet(copy / "impressions.parquet")
    prepare(copy, tmp_path / "dataset")
    opened = Dataset.open(tmp_path / "dataset")
    index = int(np.searchsorted(opened.user_keys, keys.key("stranger")))
    request = opened.requests[opened.requests["user"] == index]
    assert len(request) == 1
    assert request["start"][0] == request["end"][0]
    assert opened.names("ad").get(keys.key(999_999)) == "999999"


def test_without_a_split_the_remedy_is_named(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    text = (log / "schema.toml").read_text()
    (log / "schema.toml").write_text(
        text.replace("[split]\nvalidation_from = 70000\ntest_from = 85000\n", "")
    )
    with pytest.raises(DatasetError, match="--validation-from"):
        prepare(log, tmp_path / "dataset")
    assert prepare(log, tmp_path / "dataset", validation_from=60_000, test_from=80_000)["requests_test"] > 0


@pytest.mark.parametrize(("first", "second"), [(5, 5), (9, 2), (-1, 3)])
def test_a_split_out_of_order_is_refused(log: Path, tmp_path: Path, first: int, second: int) -> None:
    with pytest.raises(DatasetError, match="must be before"):
        prepare(log, tmp_path / "dataset", validation_from=first, test_from=second)


def test_a_foreign_folder_is_never_replaced(log: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError):
        prepare(log, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_a_damaged_dataset_is_named(log: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        Dataset.open(tmp_path)
    prepare(log, tmp_path / "d")
    (tmp_path / "d" / "row_clicked.npy").write_bytes(b"not an array")
    with pytest.raises(DatasetError, match=r"row_clicked\.npy"):
        Dataset.open(tmp_path / "d")
    (tmp_path / "d" / "row_clicked.npy").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"row_clicked\.npy"):
        Dataset.open(tmp_path / "d")
    (tmp_path / "d" / "dataset.json").write_text("{}")
    with pytest.raises(DatasetError, match="format"):
        Dataset.open(tmp_path / "d")
