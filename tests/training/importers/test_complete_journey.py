"""What a Complete Journey log holds, on a raw folder made by hand (see conftest)."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from contract.log import read_log
from training.importers.complete_journey import import_complete_journey


@pytest.fixture(name="log")
def _log(raw, tmp_path):
    """A log with every promoted product of every covered trip."""
    import_complete_journey(raw, tmp_path / "log", negatives="uniform:1000")
    return read_log(tmp_path / "log")


def rows(frame, *columns):
    return frame.select(columns).rows()


def test_the_log_reads_back_under_the_contract(log):
    assert log.behaviors.height == 12
    assert log.impressions.height == 15
    assert log.ads.height == 6
    assert log.users is not None
    assert log.histories().records.shape == (11,)  # the product bought twice in one second is one record


def test_files_hold_the_columns_of_the_contract_and_no_others(log):
    product = ["product_type", "product_category", "department", "brand", "manufacturer_id"]
    found = {path.stem: set(pl.read_parquet_schema(path)) for path in log.path.glob("*.parquet")}
    context = {"display", "mailer", "store", "hour", "weekday"}
    required = {"user_id", "ad_id", "timestamp", "clicked", "request_id", "sampling_rate"}
    assert found["behaviors"] == {"user_id", "timestamp", "action", "product_id", *product}
    assert found["impressions"] == required | context
    assert found["ads"] == {"ad_id", *product, "name"}
    assert found["users"] == {"user_id", *(field.name for field in log.schema.user)}


def test_behaviors_are_every_line_by_household_and_time(log, second):
    frame = log.behaviors
    assert frame["user_id"].to_list() == [3] * 4 + [5] + [7] * 7
    assert frame.sort("user_id", "timestamp", maintain_order=True).equals(frame)
    assert frame["timestamp"][0] == second("2017-10-02 19:00:00")  # a naive time is taken for UTC
    assert set(frame["action"]) == {"purchase"}


def test_blank_and_unknown_product_fields_are_null(log):
    unknown = log.behaviors.filter(pl.col("product_id") == 99)
    assert unknown.select("product_type", "brand", "manufacturer_id").row(0) == (None, None, None)
    bread = log.ads.filter(pl.col("ad_id") == 40)
    assert bread.select("product_type", "department", "manufacturer_id").row(0) == (None, None, 2)


def test_order_inside_a_second_is_a_seeded_shuffle_whatever_the_order_of_the_file(
    tables, write_raw, tmp_path
):
    one = tables["transactions"].row(0, named=True)
    basket = pl.DataFrame([one | {"product_id": product} for product in range(100, 140)])
    lines = pl.concat([tables["transactions"], basket.cast(tables["transactions"].schema)])

    def imported(frame, name, seed):
        raw = write_raw(tables | {"transactions": frame})
        import_complete_journey(raw, tmp_path / name, seed=seed)
        return (
            pl.read_parquet(tmp_path / name / "behaviors.parquet").filter(user_id=7)["product_id"].to_list()
        )

    first = imported(lines, "a", 1)
    assert imported(lines.reverse(), "b", 1) == first
    other = imported(lines, "c", 2)
    assert other != first
    assert sorted(other) == sorted(first)
    hundreds = [product for product in first if product >= 100]
    assert hundreds not in (sorted(hundreds), sorted(hundreds, reverse=True))


def test_ads_are_the_products_ever_promoted_with_a_name_to_show(log):
    assert rows(log.ads, "ad_id", "name") == [
        (10, "SHREDDED CHEESE, 8 OZ"),
        (20, "WHOLE MILK"),
        (30, "product 30, 1 LB"),
        (40, "BREAD"),
        (50, "product 50"),
        (60, "STEAK, 1 LB"),
    ]


def test_users_are_the_households_of_the_log_with_known_demographics(log):
    assert rows(log.users, "user_id", "age", "income") == [(3, "65+", "35-49K"), (7, None, "15-24K")]


def test_a_request_is_a_basket_whose_store_has_promotions_that_week(log):
    frame = log.impressions
    by_request = frame.group_by("request_id", maintain_order=True).agg("ad_id", "clicked")
    assert by_request.rows() == [
        (105, [10], [1]),
        (107, [20, 50], [1, 0]),
        (109, [40, 60], [0, 0]),
        (101, [10, 20, 50], [1, 1, 0]),
        (102, [10, 20, 50], [0, 0, 0]),  # same household, same second, a request of its own
        (103, [10, 30], [1, 0]),
        (104, [40, 60], [1, 0]),
    ]
    assert set(frame["sampling_rate"]) == {1.0}


def test_context_tells_placement_store_hour_and_weekday(log):
    columns = ["ad_id", "display", "mailer", "store", "hour", "weekday"]
    trip = log.impressions.filter(pl.col("request_id") == 101)
    # 2017-10-02 18:00 was a Monday; product 20 stood there with three placements, the smallest counts.
    assert rows(trip, *columns) == [
        (10, "A", "0", 1, 18, 1),
        (20, "0", "A", 1, 18, 1),
        (50, "0", "A", 1, 18, 1),
    ]
    late = log.impressions.filter(pl.col("request_id") == 109)
    assert rows(late, *columns) == [(40, "0", "H", 1, 23, 2), (60, "0", None, 1, 23, 2)]


def test_the_split_parts_weeks_41_and_42_and_46_and_47(log, second):
    assert log.schema.split.validation_from == second("2017-10-09 04:30:00")
    assert log.schema.split.test_from == second("2017-11-13 06:00:00")


def test_the_report_counts_what_was_found(raw, tmp_path):
    report = import_complete_journey(raw, tmp_path / "log", negatives="popular:1")
    expected = {
        "negatives": "popular:1", "negatives_rate": None, "households": 3, "behaviors": 12, "ads": 6, "users": 2,
        "promotions": 10, "duplicate_promotions": 2, "covered_trips": 7, "trips_with_positive": 5, "positives": 6,
        "requests": 5, "impressions": 10,
    }  # fmt: skip
    assert {name: report[name] for name in expected} == expected


def test_popular_keeps_all_positives_and_no_rate(raw, tmp_path):
    import_complete_journey(raw, tmp_path / "log", negatives="popular:1")
    frame = pl.read_parquet(tmp_path / "log" / "impressions.parquet")
    by_request = frame.group_by("request_id").agg(pl.col("clicked").sum(), pl.len()).sort("request_id")
    assert by_request.rows() == [(101, 2, 3), (103, 1, 2), (104, 1, 2), (105, 1, 1), (107, 1, 2)]
    assert frame["sampling_rate"].null_count() == len(frame)


def test_uniform_gives_positives_rate_one_and_all_others_the_same(raw, tmp_path):
    report = import_complete_journey(raw, tmp_path / "log", negatives="uniform:1", seed=3)
    frame = pl.read_parquet(tmp_path / "log" / "impressions.parquet")
    rate = 7 / 9  # 7 trips saw 15 promoted products and bought 6 of them
    assert report["negatives_rate"] == pytest.approx(rate)
    others = frame.filter(pl.col("clicked") == 0)["sampling_rate"]
    assert others.to_list() == pytest.approx([rate] * len(others))
    assert frame.filter(pl.col("clicked") == 1)["sampling_rate"].to_list() == [1.0] * 6


def test_popular_weighs_by_training_week_lines_of_all_stores_and_households(tables, write_raw, tmp_path):
    # Product 50 sells 400 times in week 40 in a store without promotions, product 60 400 times in week 47.
    one = tables["transactions"].row(8, named=True)
    many = [one | {"household_id": 4, "basket_id": 1000 + i, "product_id": 50} for i in range(400)]
    late = tables["transactions"].row(6, named=True) | {"household_id": 4, "store_id": 3}
    many += [late | {"basket_id": 2000 + i, "product_id": 60} for i in range(400)]
    # 60 households buy product 10 in store 1 in week 40, where 20, 50 and 60 stood beside it.
    first = tables["transactions"].row(0, named=True)
    many += [first | {"household_id": 500 + i, "basket_id": 3000 + i} for i in range(60)]
    lines = pl.DataFrame(many).cast(tables["transactions"].schema)
    stood = pl.DataFrame([(60, 1, 40, "0", "A")], tables["promotions"].columns, orient="row")
    raw = write_raw(
        tables
        | {
            "transactions": pl.concat([tables["transactions"], lines]),
            "promotions": pl.concat([tables["promotions"], stood]),
        }
    )
    import_complete_journey(raw, tmp_path / "log", negatives="popular:1")
    frame = pl.read_parquet(tmp_path / "log" / "impressions.parquet")
    drawn = frame.filter(pl.col("user_id") >= 500, pl.col("clicked") == 0)["ad_id"].to_list()
    assert len(drawn) == 60
    assert drawn.count(50) >= 57


def test_households_keeps_all_rows_of_a_seeded_sample(raw, tmp_path):
    def sampled(seed, count=2):
        folder = tmp_path / f"log-{seed}-{count}"
        import_complete_journey(raw, folder, negatives="uniform:1000", households=count, seed=seed)
        return read_log(folder)

    full = sampled(0, 3)
    chosen = {seed: sorted(set(sampled(seed).behaviors["user_id"])) for seed in range(8)}
    assert all(len(households) == 2 for households in chosen.values())
    assert len({tuple(households) for households in chosen.values()}) > 1
    part = sampled(0)
    assert part.impressions.equals(full.impressions.filter(pl.col("user_id").is_in(chosen[0])))
    assert part.behaviors.height == full.behaviors.filter(pl.col("user_id").is_in(chosen[0])).height
    assert part.schema.split == full.schema.split


def _bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("negatives", ["uniform:1", "popular:1"])
def test_the_same_seed_writes_the_same_bytes_whatever_the_number_of_threads(raw, tmp_path, negatives):
    command = (
        "import sys; from pathlib import Path; from training.importers import complete_journey as c;"
        "c.import_complete_journey(Path(sys.argv[1]), Path(sys.argv[2]), negatives=sys.argv[3], seed=5)"
    )
    for threads in ("1", "3"):
        subprocess.run(
            [sys.executable, "-c", command, raw, tmp_path / threads, negatives],
            env=os.environ | {"POLARS_MAX_THREADS": threads},
            cwd=Path(__file__).parents[3],
            check=True,
        )
    assert _bytes(tmp_path / "1") == _bytes(tmp_path / "3")


def test_progress_counts_up_to_the_total(raw, tmp_path):
    told = []
    import_complete_journey(raw, tmp_path / "log", progress=lambda *step: told.append(step))
    total = told[0][1]
    assert [done for done, _, _ in told] == list(range(total + 1))
    assert told[-1] == (total, total, "done")
