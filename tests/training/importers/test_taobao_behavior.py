"""Taobao's UserBehavior.csv from a small file in its format: what is kept, what is asked for, what is refused."""

import polars as pl
import pytest

from contract.errors import InputError, LogError
from contract.schema import Schema
from tests.training.importers.raw_files import DAY, FIRST, user_behavior, write
from training.importers import taobao_behavior
from training.importers.memory import Memory
from training.importers.taobao_behavior import TEST_FROM, VALIDATION_FROM, import_taobao_behavior
from training.prepare import prepare


@pytest.fixture(name="raw")
def _raw(tmp_path):
    return write(tmp_path / "raw", {"UserBehavior.csv": user_behavior()})


@pytest.fixture(name="run")
def _run(raw, tmp_path):
    def run(name="log", **options):
        options = {"min_history": 3, "negatives": "popular:3"} | options
        report = import_taobao_behavior(raw, tmp_path / name, **options)
        tables = {path.stem: pl.read_parquet(path) for path in (tmp_path / name).glob("*.parquet")}
        return report, tables

    return run


def test_rows_outside_the_nine_days_are_dropped_and_counted(run):
    report, tables = run()
    assert report["dropped_behaviors_outside_the_nine_days"] == 4
    assert tables["behaviors"].filter(user_id=5)["timestamp"].to_list() == [FIRST, FIRST + 9 * DAY - 1]
    assert tables["behaviors"]["timestamp"].is_between(FIRST, FIRST + 9 * DAY - 1).all()


def test_behaviours_are_sorted_by_user_and_second_in_the_order_of_the_file(run):
    report, tables = run()
    behaviors = tables["behaviors"]
    keys = behaviors.select("user_id", "timestamp").rows()
    assert keys == sorted(keys)
    assert report["behaviors"] == len(keys)
    assert behaviors.filter(timestamp=FIRST + 5).drop("timestamp").rows() == [
        (30, "pv", 104, 9),
        (30, "cart", 104, 2),
        (30, "fav", 103, 0),
    ]


def test_an_item_of_several_categories_has_the_most_clicked_one(run):
    report, tables = run()
    assert report["ads_of_several_categories"] == 1
    assert tables["ads"].filter(ad_id=104)["category"].to_list() == [104 % 3]


def test_items_that_training_never_saw_are_neither_shown_nor_denied(run):
    _, tables = run(targets=50)
    assert 555 in tables["behaviors"]["item_id"]
    assert 555 not in tables["ads"]["ad_id"]
    assert set(tables["impressions"]["ad_id"]) <= set(tables["ads"]["ad_id"])


def test_a_click_is_one_of_the_log_and_a_negative_is_none_of_that_second(run):
    _, tables = run(targets=50)
    happened = tables["behaviors"].select("user_id", "timestamp", pl.col("item_id").alias("ad_id"))
    clicks = happened.filter(tables["behaviors"]["action"] == "pv")
    shown = tables["impressions"]
    key = ["user_id", "timestamp", "ad_id"]
    assert len(shown.filter(clicked=1).join(clicks, on=key, how="semi")) == shown["clicked"].sum() > 50
    assert len(shown.filter(clicked=0).join(happened, on=key, how="semi")) == 0


def test_no_rate_is_claimed_for_what_was_never_shown(run):
    _, tables = run()
    assert tables["impressions"].columns == ["user_id", "ad_id", "timestamp", "clicked"]


def test_days_begin_at_midnight_in_china():
    stamps = pl.from_epoch(pl.Series([FIRST, VALIDATION_FROM, TEST_FROM])).dt.offset_by("8h")
    assert stamps.dt.to_string("%F %T").to_list() == [
        "2017-11-25 00:00:00",
        "2017-12-02 00:00:00",
        "2017-12-03 00:00:00",
    ]


def test_the_log_is_prepared_with_its_splits(run, tmp_path):
    report, _ = run()
    assert Schema.load(tmp_path / "log" / "schema.toml").split.test_from == TEST_FROM
    counts = prepare(tmp_path / "log", tmp_path / "dataset")
    assert [counts[f"requests_{split}"] for split in ("train", "validation", "test")] == [6, 6, 6]
    assert counts["rows"] == report["impressions"] == 18 * 4
    assert counts["clicked"] == report["requests"] == 18


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_bytes_do_not_depend_on_the_memory(run, tmp_path, monkeypatch):
    run("whole")
    monkeypatch.setattr(taobao_behavior, "memory_of", lambda _, **__: Memory(0))
    monkeypatch.setattr(Memory, "rows", property(lambda _: 50))
    monkeypatch.setattr(Memory, "chunk_bytes", property(lambda _: 100))
    run("cut")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_seeds_choose_other_clicks_and_other_negatives(run):
    _, first = run("a")
    _, second = run("b", seed=1)
    assert first["behaviors"].equals(second["behaviors"])
    assert not first["impressions"].equals(second["impressions"])


def test_a_share_of_the_users_sees_the_items_of_all(run):
    whole, everyone = run("whole")
    part, some = run("part", user_share=0.5, seed=4)
    assert 0 < part["users"] < whole["users"]
    assert some["ads"].equals(everyone["ads"])


def test_of_a_share_of_the_users_only_their_rows_are_counted(run):
    report, tables = run(user_share=0.5, seed=8)
    outside = {1: 1, 5: 3}  # rows of each user
    kept = set(tables["behaviors"]["user_id"])
    assert kept != {1, 5, 30, 1000}
    wanted = sum(outside[user] for user in outside.keys() & kept)
    assert report["dropped_behaviors_outside_the_nine_days"] == wanted < 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "user_id,item_id,category_id,behavior_type,timestamp\n",
            "line 1: column 'user_id': 'user_id' is not",
        ),
        (
            "1,2,3,pv,1511544070\n1,2,3,view,1511544070\n",
            "line 2: column 'behavior_type': 'view' is not one of",
        ),
        ("1,2,3,pv,1511544070\n1,2,3,pv", "line 2: has 4 fields, not 5"),
        ("1,2,3,buy,1511544070\n", "no row of type pv from 2017-11-25 to 12-01"),
        ("1,2,3,pv,1511544070\n", "no click has 3 events before it"),
    ],
    ids=["header", "unknown type", "cut", "no click", "no history"],
)
def test_a_bad_file_is_refused_with_one_line_and_leaves_nothing(raw, run, tmp_path, text, words):
    (raw / "UserBehavior.csv").write_text(text)
    with pytest.raises(LogError, match=rf"raw/UserBehavior\.csv: {words}"):
        run()
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize(
    "options",
    [
        {"targets": 0},
        {"min_history": 0},
        {"negatives": "some:3"},
        {"memory_bytes": 600_000_000},
        {"user_share": 2},
        {"seed": -1},
    ],
    ids=str,
)
def test_bad_arguments_are_refused(run, options):
    with pytest.raises(InputError, match=f"--{next(iter(options)).replace('_bytes', '').replace('_', '-')}"):
        run(**options)
