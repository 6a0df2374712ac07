"""The Taobao ad log from small files in its format: every trap of the data set, and what is refused."""

import re

import polars as pl
import pytest

from contract.errors import InputError, LogError
from contract.log import read_log
from contract.schema import Schema
from tests.training.importers.raw_files import BEHAVIOR_LOG, TAOBAO_AD, write
from training.dataset import Dataset
from training.importers import external_log, taobao_ad
from training.importers.memory import Memory
from training.importers.taobao_ad import import_taobao_ad
from training.prepare import prepare


@pytest.fixture(name="raw")
def _raw(tmp_path):
    return write(tmp_path / "raw", TAOBAO_AD)


@pytest.fixture(name="imported")
def _imported(raw, tmp_path):
    return import_taobao_ad(raw, tmp_path / "log"), tmp_path / "log"


def table(log, name):
    return pl.read_parquet(log / f"{name}.parquet")


def test_behaviours_are_sorted_by_user_and_second_in_the_order_of_the_file(imported):
    _, log = imported
    assert table(log, "behaviors").rows() == [
        (7, 1493000000, "pv", 6406, None),  # written ipv, brand NULL
        (7, 1493000000, "pv", 8282, 87331),
        (7, 1494518399, "buy", 8282, 87331),
        (449818, 1493900000, "fav", 8282, 87331),
        (449818, 1493900001, "pv", 6406, 95471),
        (581738, 1493741624, "pv", 6406, 95471),
        (581738, 1493741625, "pv", 6406, 95471),
        (581738, 1493741625, "cart", 8282, 95471),
    ]


def test_rows_without_a_time_are_dropped_and_counted(imported):
    report, _ = imported
    assert report["behaviors"] == 8
    assert report["dropped_behaviors_without_time"] == 2


def test_impressions_keep_real_non_clicks_and_users_without_a_profile(imported):
    report, log = imported
    shown = table(log, "impressions")
    assert shown.columns == ["user_id", "ad_id", "timestamp", "clicked", "sampling_rate", "pid"]
    assert shown.filter(user_id=581738, timestamp=1494137644).rows() == [
        (581738, 1, 1494137644, 0, 1.0, "430548_1007"),
        (581738, 2, 1494137644, 1, 1.0, "430548_1007"),
    ]
    assert len(shown.filter(user_id=449818)) == 4
    assert report["users"] == 3
    assert report["users_without_profile"] == 1
    assert shown["sampling_rate"].unique().to_list() == [1.0]


def test_an_ad_stands_once_in_a_request_and_is_clicked_if_one_of_its_rows_is(imported):
    report, log = imported
    shown = table(log, "impressions").filter(user_id=7, timestamp=1494604801)
    assert shown.select("ad_id", "clicked", "pid").rows() == [(1, 0, "430548_1007"), (2, 1, "430548_1007")]
    assert report["dropped_duplicate_impressions"] == 1
    assert report["impressions"] == 15
    assert report["clicked"] == 7
    assert report["requests"] == 8


def test_ads_keep_absurd_prices_and_lack_unknown_brands(imported):
    _, log = imported
    assert table(log, "ads").rows() == [
        (1, 6406, 83237, 1, 95471, 170.0),
        (2, 6406, 83237, 1, None, 199.0),
        (3, 8282, 83237, 1, 87331, 99999999.99),
        (4, 8282, 84000, 2, None, 0.01),
    ]


def test_profiles_are_read_past_the_blank_at_the_end_of_their_header(imported):
    _, log = imported
    users = table(log, "users")
    assert users.columns[0] == "user_id"
    assert users.columns[-1] == "new_user_class_level"
    assert users["pvalue_level"].to_list() == [None, 1, 2]
    assert users["new_user_class_level"].to_list() == [3, None, 2]


def test_days_begin_at_midnight_in_china(imported):
    _, log = imported
    split = Schema.load(log / "schema.toml").split
    stamps = pl.from_epoch(pl.Series([split.validation_from, split.test_from])).dt.offset_by("8h")
    assert stamps.dt.to_string("%F %T").to_list() == ["2017-05-12 00:00:00", "2017-05-13 00:00:00"]


def test_the_log_is_prepared_with_its_splits(imported, tmp_path):
    report, log = imported
    counts = prepare(log, tmp_path / "dataset")
    assert counts["behaviors"] == report["behaviors"]
    assert counts["rows"] == report["impressions"]
    assert [counts[f"requests_{split}"] for split in ("train", "validation", "test")] == [3, 3, 2]
    dataset = Dataset.open(tmp_path / "dataset")
    assert dataset.manifest["sampling"] == {"known": True, "clicked": 1.0, "not_clicked": 1.0}


def test_an_ad_is_matched_with_events_by_category_and_brand(imported):
    _, log = imported
    schema = read_log(log).schema
    assert {field.name: field.matches for field in schema.ad if field.matches} == {
        "cate_id": "cate",
        "brand": "brand",
    }
    assert schema.actions == ("pv", "cart", "fav", "buy")


def contents(log):
    return {path.name: path.read_bytes() for path in log.iterdir()}


def test_the_bytes_do_not_depend_on_the_memory(imported, raw, tmp_path, monkeypatch):
    _, log = imported
    small = Memory(0)
    monkeypatch.setattr(taobao_ad, "memory_of", lambda _: small)
    monkeypatch.setattr(Memory, "rows", property(lambda _: 8))
    monkeypatch.setattr(Memory, "chunk_bytes", property(lambda _: 40))
    portions = []
    sort = external_log.Partitions.sorted_records
    monkeypatch.setattr(
        external_log.Partitions,
        "sorted_records",
        lambda self: (portions.append(len(portion)) or portion for portion in sort(self)),
    )
    import_taobao_ad(raw, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(log)
    assert max(portions) <= 8
    assert len(portions) >= 4  # of two tables


def test_a_share_of_the_users_is_all_of_some_users(raw, tmp_path):
    whole = import_taobao_ad(raw, tmp_path / "whole")
    part = import_taobao_ad(raw, tmp_path / "part", user_share=0.5, seed=3)
    assert 0 < part["users"] < whole["users"]
    for name in ("behaviors", "impressions", "users"):
        kept = table(tmp_path / "part", name)
        both = table(tmp_path / "whole", name).filter(pl.col("user_id").is_in(kept["user_id"].to_list()))
        assert kept.equals(both)
    users = set(table(tmp_path / "part", "impressions")["user_id"])
    assert set(table(tmp_path / "part", "behaviors")["user_id"]) == users


REFUSED = {
    "nonclk": ("raw_sample", "2,430548_1007,0,1", "2,430548_1007,1,1", "line 3: nonclk is not 1 - clk"),
    "no user": ("raw_sample", "user,", "userid,", "column 'user' is missing; line 1 has userid, time_stamp"),
    "profile key": (
        "user_profile",
        "userid",
        "user",
        "column 'userid' is missing; line 1 has user, cms_segid",
    ),
    "late": ("raw_sample", "1494000000,3", "1494000000000,3", "line 5: column 'time_stamp': '1494000000000'"),
    "clk": ("raw_sample", ",0,1\n", ",0,2\n", "line 3: column 'clk': '2' is not an integer from 0 to 1"),
    "btag": ("behavior_log", "fav", "like", "line 7: column 'btag': 'like' is not one of pv, cart, fav, buy"),
    "cut": ("behavior_log", "fav,8282,87331", "fav,8282", "line 7: has 4 fields, not 5"),
    "price": (
        "ad_feature",
        "199.0",
        "cheap",
        "line 3: column 'price': 'cheap' is not a number from 0 to 1e+30",
    ),
    "no events": (
        "behavior_log",
        BEHAVIOR_LOG.split("\n", 1)[1],
        "",
        "no rows of these users; no history",
    ),
    "ad twice": ("ad_feature", "4,8282", "3,8282", "line 5: column 'adgroup_id': 3 stands there twice"),
    "user twice": ("user_profile", "581738,", "234,", "line 3: column 'userid': 234 stands there twice"),
}


@pytest.mark.parametrize(("name", "old", "new", "words"), REFUSED.values(), ids=REFUSED)
def test_a_bad_file_is_refused_with_one_line_and_leaves_nothing(tmp_path, name, old, new, words):
    files = TAOBAO_AD | {f"{name}.csv": TAOBAO_AD[f"{name}.csv"].replace(old, new, 1)}
    assert files != TAOBAO_AD
    raw = write(tmp_path / "raw", files)
    with pytest.raises(LogError, match=rf"raw/{name}\.csv: .*{re.escape(words)}") as caught:
        import_taobao_ad(raw, tmp_path / "log")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_missing_file_is_found_out_at_once(raw, tmp_path):
    (raw / "behavior_log.csv").unlink()
    with pytest.raises(LogError, match=r"behavior_log\.csv: no such file"):
        import_taobao_ad(raw, tmp_path / "log")
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory_bytes": 1}, "too little"),
        ({"user_share": 0.0}, "--user-share 0.0"),
        ({"seed": -1}, "--seed -1"),
        ({"seed": 2**64, "user_share": 0.5}, f"--seed {2**64}"),
    ],
)
def test_bad_arguments_are_refused(raw, tmp_path, options, words):
    with pytest.raises(InputError, match=re.escape(words)):
        import_taobao_ad(raw, tmp_path / "log", **options)


def test_an_older_log_stays_when_the_import_fails(imported, raw):
    _, log = imported
    before = contents(log)
    (raw / "behavior_log.csv").write_text("user,time_stamp,btag,cate,brand\n1,2\n")
    with pytest.raises(LogError):
        import_taobao_ad(raw, log)
    assert contents(log) == before
