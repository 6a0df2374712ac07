"""Every probability is what the documented formula says of the files, written here a second time, event by event."""

import math

import numpy as np
import polars as pl
import pytest


def match(behavior, ad):
    """Return m(j, a) of docs/synthesize.md, from the numbers in the files."""
    if behavior["subcategory"] == ad["subcategory"]:
        return 1.0
    if behavior["category"] == ad["category"]:
        return 0.5
    if (behavior["category"] - 1) // 2 == (ad["category"] - 1) // 2:
        return 0.5
    return -0.75 if abs(behavior["category"] - ad["category"]) == 24 else 0.0


def probability(ad, quality, earlier, timestamp):
    total = 0.0
    for behavior in earlier:
        weight = 3.0 if behavior["action"] == "purchase" else 1.0
        age_days = (timestamp - behavior["timestamp"]) / 86_400
        total += weight * match(behavior, ad) / (1 + age_days / 3.0) ** 2
    return 1 / (1 + math.exp(-(-2.2 + quality + math.asinh(total))))


def test_every_probability_is_the_formula_applied_to_the_files(small_log):
    ads = {row["ad_id"]: row for row in pl.read_parquet(small_log / "ads.parquet").to_dicts()}
    qualities = dict(pl.read_parquet(small_log / "truth_ads.parquet").iter_rows())
    behaviors = pl.read_parquet(small_log / "behaviors.parquet").partition_by("user_id", as_dict=True)
    wrong, moved = 0, 0
    for row in pl.read_parquet(small_log / "truth.parquet").iter_rows(named=True):
        events = behaviors[row["user_id"],].to_dicts()
        earlier = [event for event in events if event["timestamp"] < row["timestamp"]]
        quality = qualities[row["ad_id"]]
        expected = probability(ads[row["ad_id"]], quality, earlier, row["timestamp"])
        wrong += not math.isclose(row["probability"], expected, rel_tol=1e-12)
        moved += expected != probability(ads[row["ad_id"]], quality, [], row["timestamp"])
    assert wrong == 0
    assert moved > 1000  # the formula was put to the test by behaviours, not by the ads' quality alone


def test_truth_has_the_rows_of_impressions_in_their_order(small_log):
    keys = ["user_id", "ad_id", "timestamp", "request_id"]
    truth = pl.read_parquet(small_log / "truth.parquet")
    shown = pl.read_parquet(small_log / "impressions.parquet")
    assert truth.select(keys).equals(shown.select(keys))
    assert truth.schema["probability"] == pl.Float64
    assert "probability" not in shown.columns


@pytest.mark.parametrize("share", ["all", *range(10)])
def test_clicks_come_as_often_as_the_truth_says(large_log, share):
    probability = pl.read_parquet(large_log / "truth.parquet")["probability"].to_numpy()
    clicked = pl.read_parquet(large_log / "impressions.parquet")["clicked"].to_numpy()
    chosen = np.arange(len(clicked))
    if share != "all":
        chosen = np.array_split(np.argsort(probability), 10)[share]
    p, clicks = probability[chosen], clicked[chosen].sum()
    assert abs(clicks - p.sum()) < 4 * math.sqrt((p * (1 - p)).sum())


def test_nobody_is_shown_an_ad_twice_at_once(large_log):
    shown = pl.read_parquet(large_log / "impressions.parquet", columns=["request_id", "ad_id"])
    assert not shown.is_duplicated().any()
