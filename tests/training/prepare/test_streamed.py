"""However the work is cut, the dataset is what a plain loop over the whole log computes."""

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from contract import keys
from training.dataset import Dataset
from training.prepare import Sizes, prepare

SCHEMA = """
actions = ["view", "buy"]
[split]
validation_from = 60
test_from = 80
[vocabularies.item]
kind = "exact"
[vocabularies.person]
kind = "hashed"
rows = 8
[vocabularies.slot]
kind = "exact"
[[behavior]]
name = "item_id"
type = "categorical"
vocabulary = "item"
[[behavior]]
name = "key"
type = "numeric"
optional = true
[[ad]]
name = "ad_id"
type = "categorical"
vocabulary = "item"
matches = "item_id"
[[ad]]
name = "price"
type = "numeric"
optional = true
[[user]]
name = "user_id"
type = "categorical"
vocabulary = "person"
[[user]]
name = "age"
type = "numeric"
[[context]]
name = "slot"
type = "categorical"
vocabulary = "slot"
"""
CUTS = [
    pytest.param(Sizes(7, 30, 1), id="pieces of a few rows"),
    pytest.param(Sizes(50, 11, 2), id="many parts, two threads"),
    pytest.param(Sizes(10**6, 10**6, 1), id="in one piece"),
]


@pytest.fixture(name="log", scope="module")
def _log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a log of 100 seconds, full of equal times, repeated events and requests, and users of one table only."""
    log = tmp_path_factory.mktemp("cut") / "log"
    log.mkdir()
    (log / "schema.toml").write_text(SCHEMA)
    generator = np.random.default_rng(3)
    rows = 120
    pl.DataFrame(
        {
            "user_id": [str(i) for i in generator.integers(0, 9, rows)],
            "timestamp": generator.integers(0, 20, rows) * 5,
            "item_id": generator.integers(0, 3, rows),
            "key": [None if i == 0 else float(i) for i in generator.integers(0, 2, rows)],
            "action": pl.Series(["view", "buy"]).gather(generator.integers(0, 2, rows)),
        }
    ).write_parquet(log / "behaviors.parquet")
    shown: list[tuple[int, int, int, int, str | None, str | None]] = []
    for request in range(40):
        user, when = int(generator.integers(4, 14)), int(generator.integers(0, 20)) * 5
        name = None if request % 5 == 0 else str(2 * request)
        ads = generator.choice(6, 1 + request % 3, replace=False)
        if name is None:  # such rows join whatever this user was shown in this second
            ads = ads + 10 * (request + 1)
        shown += [(user, int(ad), when, int(ad) % 2, name, ["top", None][request % 2]) for ad in ads]
    order = generator.permutation(len(shown))
    pl.DataFrame(
        [shown[i] for i in order],
        schema=["user_id", "ad_id", "timestamp", "clicked", "request_id", "slot"],
        orient="row",
    ).write_parquet(log / "impressions.parquet")
    pl.DataFrame({"ad_id": [4, 2, 0, 77], "price": [1.5, None, 2.5, 3.5]}).write_parquet(log / "ads.parquet")
    pl.DataFrame({"user_id": [20, 3, 5, 12], "age": [20, None, 5, 12]}).write_parquet(log / "users.parquet")
    return log


@pytest.fixture(name="dataset", scope="module", params=CUTS)
def _dataset(log: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Dataset:
    path = tmp_path_factory.mktemp("out") / "dataset"
    prepare(log, path, history_lag_s=5, sizes=request.param)
    return Dataset.open(path)


def naive_histories(log: Path) -> dict[str, list[dict[str, Any]]]:
    """Return each user's events in time, those of one second in the log's order, identical ones once."""
    events: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in pl.read_parquet(log / "behaviors.parquet").iter_rows(named=True):
        if row not in events[row["user_id"]]:
            events[row["user_id"]].append(row)
    return {user: sorted(rows, key=lambda row: row["timestamp"]) for user, rows in events.items()}


def naive_requests(log: Path) -> list[tuple[str, int, list[int]]]:
    """Return user, time and rows of the log of each request, in the dataset's order."""
    rows: dict[tuple[int, int, bool, str], list[int]] = defaultdict(list)
    users = {}
    for index, row in enumerate(pl.read_parquet(log / "impressions.parquet").iter_rows(named=True)):
        user, name = str(row["user_id"]), row["request_id"]
        users[keys.key(user)] = user
        rows[keys.key(user), row["timestamp"], name is not None, name or ""].append(index)
    return [(users[group[0]], group[1], rows[group]) for group in sorted(rows)]


def test_histories_are_those_of_a_plain_loop(log: Path, dataset: Dataset) -> None:
    histories = naive_histories(log)
    everyone = {str(i) for i in pl.read_parquet(log / "impressions.parquet")["user_id"]}
    everyone |= set(histories) | {"20", "3", "5", "12"}
    by_key = sorted(everyone, key=keys.key)
    assert dataset.user_keys.tolist() == [keys.key(user) for user in by_key]
    assert [dataset.names("user").get(keys.key(user)) for user in by_key] == by_key
    expected = [event for user in by_key for event in histories.get(user, [])]
    assert len(dataset.records) == len(expected) < 120
    for name in ("timestamp", "key"):
        wanted = np.array([event[name] for event in expected], dtype=np.float64)
        np.testing.assert_array_equal(dataset.records[name].astype(np.float64), wanted)
    assert dataset.records["item_id"].tolist() == [keys.key(event["item_id"]) for event in expected]
    assert dataset.records["action"].tolist() == [1 + (event["action"] == "buy") for event in expected]
    lengths = [len(histories.get(user, [])) for user in by_key]
    assert np.diff(dataset.array("user_offsets")).tolist() == lengths
    ages = dict(zip(["20", "3", "5", "12"], [20.0, np.nan, 5.0, 12.0], strict=True))
    np.testing.assert_array_equal(dataset.column("user", "age"), [ages.get(user, np.nan) for user in by_key])
    assert dataset.column("user", "user_id").tolist() == dataset.user_keys.tolist()


def test_requests_are_those_of_a_plain_loop(log: Path, dataset: Dataset) -> None:
    histories, requests = naive_histories(log), naive_requests(log)
    assert len(dataset.requests) == len(requests)
    for found, (user, when, rows) in zip(dataset.requests, requests, strict=True):
        assert (int(dataset.user_keys[found["user"]]), int(found["timestamp"])) == (keys.key(user), when)
        assert found["split"] == (when >= 60) + (when >= 80)
        place = slice(int(found["first_row"]), int(found["first_row"]) + int(found["rows"]))
        assert dataset.row("log_row")[place].tolist() == rows
        history = dataset.records[found["start"] : found["end"]]
        earlier = [event for event in histories.get(user, []) if event["timestamp"] < when - 5]
        assert history["item_id"].tolist() == [keys.key(event["item_id"]) for event in earlier]
        assert found["start"] == dataset.array("user_offsets")[found["user"]]


def test_rows_and_ads_are_those_of_the_log(log: Path, dataset: Dataset) -> None:
    impressions = pl.read_parquet(log / "impressions.parquet")
    logged = impressions[dataset.row("log_row").tolist()]
    assert dataset.ad_keys[dataset.row("ad")].tolist() == keys.keys(logged["ad_id"]).tolist()
    assert dataset.row("clicked").tolist() == logged["clicked"].to_list()
    assert np.isnan(dataset.row("rate")).all()
    assert dataset.column("context", "slot").tolist() == keys.keys(logged["slot"]).tolist()
    ads = sorted({*impressions["ad_id"].to_list(), 0, 2, 4, 77}, key=keys.key)
    assert dataset.ad_keys.tolist() == keys.keys(ads).tolist()
    prices = {4: 1.5, 0: 2.5, 77: 3.5}
    np.testing.assert_array_equal(dataset.column("ad", "price"), [prices.get(ad, np.nan) for ad in ads])
    assert dataset.impressions().equals(
        impressions.select("user_id", "ad_id", "timestamp", "request_id", "clicked")
    )
    vocabulary = {"0", "1", "2", "4", "77"}  # of behaviours and of the catalogue
    assert set(dataset.array("vocabulary_item_keys").tolist()) == {keys.key(text) for text in vocabulary}
    assert {dataset.texts("item").get(keys.key(text)) for text in vocabulary} == vocabulary


def test_no_size_of_a_piece_changes_a_byte(log: Path, tmp_path: Path) -> None:
    digests = set()
    for index, sizes in enumerate([Sizes(13, 40, 2), Sizes(1000, 25, 1), Sizes(40, 1000, 3)]):
        prepare(log, tmp_path / str(index), sizes=sizes)
        content = b"".join(
            path.name.encode() + path.read_bytes() for path in sorted((tmp_path / str(index)).iterdir())
        )
        digests.add(hashlib.sha256(content).hexdigest())
    assert len(digests) == 1


def test_nothing_is_left_beside_the_dataset(log: Path, tmp_path: Path) -> None:
    prepare(log, tmp_path / "dataset", sizes=Sizes(60, 60, 1))
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]
