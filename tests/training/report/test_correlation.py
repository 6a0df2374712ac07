"""Correlation maps: against pairs counted one by one, against planted truth, against the formula written out."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from tests.support.logs import SCHEMA_TOML
from training.batches import BatchSource
from training.models.masking import HistoryMask
from training.prepare import prepare
from training.report.case import Case, open_case
from training.report.correlation import AGES_S, RANKS, clicks_and_expected, count_pairs, lifts, matched_fields
from training.report.maps import chosen_category
from training.report.strength import strength_of
from training.run import Run
from training.scoring import inputs_of
from training.train import train

FAST = {"epochs": 1, "history_length": 20, "embedding_width": 8}


def case_of(run: Path, **options) -> Case:
    options = {"baselines": (), "category": None, "replicates": 50, "seed": 0, "progress": None, **options}
    return open_case(run, **options)


@pytest.fixture(name="case", scope="module")
def _case(made: Path) -> Case:
    return case_of(made / "runs" / "tin")


@pytest.fixture(name="planted", scope="module")
def _planted(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Return a case in which people click on ads of the kind of their newest two events, and on no other's account."""
    folder = tmp_path_factory.mktemp("planted")
    (folder / "log").mkdir()
    rng = np.random.default_rng(1)
    users, events, requests, ads = 150, 40, 6, 8
    times = np.sort(rng.integers(1, 60_000, (users, events)), axis=1)
    items = rng.integers(0, 60, (users, events))
    rows = []
    for user in range(users):
        for request, time in enumerate(rng.integers(60_001, 100_000, requests)):
            for ad in rng.choice(60, ads, replace=False):
                fresh = ad % 6 in items[user, -2:] % 6
                rows.append(
                    (
                        f"u{user}",
                        int(ad),
                        int(time),
                        int(rng.random() < (0.7 if fresh else 0.1)),
                        f"r{user}-{request}",
                    )
                )
    columns = ["user_id", "ad_id", "timestamp", "clicked", "request_id"]
    pl.DataFrame(rows, schema=columns, orient="row").with_columns(
        slot=pl.lit("top"), position=pl.lit(1), sampling_rate=pl.lit(1.0)
    ).write_parquet(folder / "log" / "impressions.parquet")
    flat = items.ravel()
    pl.DataFrame(
        {
            "user_id": np.repeat([f"u{user}" for user in range(users)], events),
            "timestamp": times.ravel(),
            "item_id": flat,
            "kind": [f"k{item % 6}" for item in flat],
            "spent": np.ones(len(flat)),
            "action": ["buy"] * len(flat),
        }
    ).write_parquet(folder / "log" / "behaviors.parquet")
    pl.DataFrame(
        {"ad_id": range(60), "kind": [f"k{i % 6}" for i in range(60)], "price": [1.0] * 60}
    ).write_parquet(folder / "log" / "ads.parquet")
    schema = SCHEMA_TOML.split("[[user]]")[0] + "[[context]]" + SCHEMA_TOML.split("[[context]]", 1)[1]
    (folder / "log" / "schema.toml").write_text(schema)
    prepare(folder / "log", folder / "dataset")
    train(folder / "dataset", folder / "run", model="mean_pool", settings=FAST)
    return case_of(folder / "run")


def field(case: Case, name: str):
    return next(each for each in matched_fields(case) if each.name == name)


def test_pairs_are_those_counted_one_by_one(case):
    fields = matched_fields(case)
    pairs = count_pairs(case, fields, field(case, "kind"), None)
    dataset = case.dataset
    rng = np.random.default_rng(0)
    for place in rng.choice(len(pairs.row), 25, replace=False):
        row = case.main.row[pairs.row[place]]
        entry = dataset.requests[dataset.request_of(np.array([row]))[0]]
        want_same, want_all = np.zeros_like(pairs.same[0]), np.zeros_like(pairs.every[0])
        for rank, index in enumerate(range(entry["end"] - 1, entry["start"] - 1, -1), start=1):
            event = dataset.records[index]
            age = int(entry["timestamp"]) - int(event["timestamp"])
            columns = [max(i for i, low in enumerate(RANKS) if low <= rank)]
            columns.append(len(RANKS) + max(i for i, low in enumerate(AGES_S) if low <= age))
            for column in columns:
                want_all[column] += 1
                for f, each in enumerate(fields):
                    key = dataset.column("ad", each.name)[dataset.row("ad")[row]]
                    want_same[f, column] += key != 0 and key == event[each.matches]
        assert (pairs.same[place] == want_same).all()
        assert (pairs.every[place] == want_all).all()


def test_expected_clicks_add_up_to_those_that_happened(case):
    pairs = count_pairs(case, matched_fields(case), field(case, "kind"), None)
    clicks, expected = clicks_and_expected(case, pairs)
    assert expected.sum() == pytest.approx(clicks.sum())
    assert (expected > 0).all()


def test_clicks_that_stand_for_many_are_no_more_evidence(case):
    pairs = count_pairs(case, matched_fields(case), field(case, "kind"), None)
    scored = replace(case.main)
    scored.__dict__["rows"] = replace(case.main.rows, weight=case.main.rows.weight * 100)
    sampled = replace(case, scored={**case.scored, case.judged: scored})
    same, other = lifts(case, pairs)
    assert np.isnan(same).any()
    np.testing.assert_allclose(lifts(sampled, pairs), (same, other))


def test_the_log_shows_where_clicks_were_planted(planted):
    kind = field(planted, "kind")
    fields = matched_fields(planted)
    pairs = count_pairs(planted, fields, kind, None)
    same, other = (each[fields.index(kind), : len(RANKS)] for each in lifts(planted, pairs))
    # of 6 kinds and two events that count: .7 against about .27 on average
    assert 2.0 < same[0] < 3.2
    assert 0.6 < other[0] < 0.9
    assert same[0] > 1.4 * same[1] > 1.4 * 1.1  # rank 2 counts, rank 3 does not
    assert same[3] == pytest.approx(1.0, abs=0.15)
    assert same[4] == pytest.approx(1.0, abs=0.15)
    assert np.isnan(same[6:]).all()  # nobody has so many events


def test_mutual_information_is_where_clicks_were_planted_and_near_nothing_elsewhere(planted):
    kind = field(planted, "kind")
    pairs = count_pairs(planted, matched_fields(planted), kind, None)
    own, other = pairs.same_information, pairs.other_information
    # H(.1 + .6 p) less what is left once it is known whether the newest event is of the ad's kind
    assert own[0] > 5 * abs(own[3])
    assert own[0] > 5 * other[0]
    assert own[0] > own[1] > abs(own[3])
    assert abs(own[3:6]).max() < 0.1 * own[0]


def test_information_of_the_newest_event_is_that_of_the_definition(planted):
    kind = field(planted, "kind")
    pairs = count_pairs(planted, matched_fields(planted), kind, None)
    fields = matched_fields(planted)
    clicked = planted.main.rows.clicked[pairs.row]
    same = pairs.same[:, fields.index(kind), 0] > 0

    def entropy(p):
        return -(p * math.log2(p) + (1 - p) * math.log2(1 - p)) if 0 < p < 1 else 0.0

    known = sum(entropy(clicked[same == value].mean()) * (same == value).mean() for value in (True, False))
    assert pairs.same_information[0] == pytest.approx(1000 * (entropy(clicked.mean()) - known), rel=0.15)


def test_strength_of_tin_is_its_formula(made):
    run = Run.load(made / "runs" / "tin")
    dataset = run.dataset()
    batch = BatchSource(dataset, run.encoder, run.model.inputs).batch(
        dataset.requests_of("test")[:1], serving=True
    )
    inputs = inputs_of(batch)
    model = run.model
    with torch.inference_mode():
        q = model.time.target(model.embedding.ads(inputs))[0]
        k = model.time.behaviors(model.embedding.history(inputs), inputs)[0]
        z = model.attention_logits(q[None], k[None], HistoryMask.of(inputs["history_mask"]))[0]
        want = z.exp() * (q[:, None] * k[None]).norm(dim=-1)
    strength = strength_of(model)
    assert np.exp(strength.of(inputs)) == pytest.approx(want.numpy(), rel=1e-4)
    assert strength.relative(np.log([2.0, 8.0]), math.log(4.0)) == pytest.approx([0.5, 2.0])


def test_strength_of_din_is_its_formula(made):
    run = Run.load(made / "runs" / "din")
    dataset = run.dataset()
    batch = BatchSource(dataset, run.encoder, run.model.inputs).batch(
        dataset.requests_of("test")[:1], serving=True
    )
    inputs = inputs_of(batch)
    with torch.inference_mode():
        q, k = run.model.embedding.ads(inputs), run.model.embedding.history(inputs)
        weight = run.model.attention(q, k, inputs, None)[0].T
        want = weight.abs() * k[0].norm(dim=-1)
    strength = strength_of(run.model)
    assert strength.of(inputs) == pytest.approx(want.numpy(), rel=1e-5)
    assert strength.relative(np.array([2.0, 8.0]), 4.0).tolist() == [0.5, 2.0]


def test_learned_strength_is_its_mean_over_pairs_of_one_kind(case):
    fields, kind = matched_fields(case), field(case, "kind")
    strength = strength_of(case.run.model)
    pairs = count_pairs(case, fields, kind, strength)
    dataset, place = case.dataset, fields.index(kind)
    source = BatchSource(dataset, case.run.encoder, case.run.model.inputs)
    newest, every = [], []
    for request in np.unique(case.main.request[pairs.row]):
        logs = strength.of(inputs_of(source.batch(np.array([request]), serving=True)))
        entry = dataset.requests[request]
        length = min(int(entry["end"] - entry["start"]), 20)
        every.append(logs[:, -length:].ravel())
        ads = dataset.row("ad")[entry["first_row"] : entry["first_row"] + entry["rows"]]
        same = dataset.column("ad", "kind")[ads] == dataset.records["kind"][entry["end"] - 1]
        newest.append(logs[same & (dataset.column("ad", "kind")[ads] != 0), -1])
    want = math.exp(np.concatenate(newest).mean() - np.concatenate(every).mean())
    assert pairs.learned[place, 0] == pytest.approx(want, rel=1e-6)
    assert np.isnan(pairs.learned[place, 6])  # beyond what the model sees


def test_the_field_of_the_maps_has_a_moderate_number_of_values_or_the_name_given(made, case):
    assert (
        chosen_category(case, matched_fields(case)).name == "ad_id"
    )  # 60 items are nearer to 100 than 6 kinds
    given = case_of(made / "runs" / "mean_pool", category="kind")
    assert chosen_category(given, matched_fields(given)).name == "kind"
