"""What `/score` answers, held to what the bundle says offline; and that nothing but the request decides it."""

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import msgpack
import numpy as np
import pytest
import redis

from contract.keys import key
from service.history.writer import StoreWriter, claim_layout
from tests.support.serving import log_odds

ADS = [str(100 + index) for index in range(25)]


def scores_of(answer):
    assert answer.status == 200, answer.data
    return answer.json["scores"]


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(
        log_odds(actual), np.asarray(expected, dtype=np.float64), atol=tolerance, rtol=0
    )


@pytest.fixture
def now(offline):
    return offline.last_s + 3600


# ---------------------------------------------------------------- the answer


def test_the_answer_is_as_designed(served, offline, now):
    body = {"user_id": offline.busiest, "candidates": ADS, "timestamp": now, "request_id": "r-1"}
    answer = served.score(body)
    found = answer.json
    assert list(found) == ["request_id", "model", "version", "scores", "history", "unknown_ads"]
    assert found["request_id"] == answer.headers["x-request-id"] == "r-1"
    assert found["model"] == offline.bundle.manifest.name
    assert found["version"] == offline.bundle.manifest.version
    assert found["history"] == {
        "status": "hit",
        "length": 12,
        "newest_age_s": now - int(offline.history(offline.busiest)["timestamp"][-1]),
    }
    assert found["unknown_ads"] == 0
    assert len(set(found["scores"])) > 10
    assert all(0 < score < 1 for score in found["scores"])


def test_scores_are_the_float64_sigmoid_of_the_graphs_logits_unrounded(served, offline, now):
    got = np.array(scores_of(served.score({"user_id": offline.busiest, "candidates": ADS, "timestamp": now})))
    logit_N = offline.logits(offline.busiest, ADS, now)
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-logit_N.astype(np.float64))), rtol=1e-6)
    assert any(len(str(score)) > 15 for score in got)


@pytest.mark.parametrize("user", ["0", "1", "3", "5", 7, "nobody"])
def test_every_user_gets_the_offline_scores(served, offline, now, user):
    for timestamp in (now, now - 40 * 86_400, 1_500_000_000):
        answer = served.score({"user_id": user, "candidates": ADS[:6], "timestamp": timestamp})
        close(scores_of(answer), offline.logits(user, ADS[:6], timestamp))


def test_only_what_happened_strictly_before_counts(served, offline):
    times = offline.history(offline.busiest)["timestamp"]
    moment = int(times[20])
    answer = served.score({"user_id": offline.busiest, "candidates": ADS, "timestamp": moment})
    close(scores_of(answer), offline.logits(offline.busiest, ADS, moment))
    assert answer.json["history"]["newest_age_s"] == moment - int(times[times < moment][-1])


def test_without_a_timestamp_now_is_meant(served, offline):
    answer = served.score({"user_id": offline.busiest, "candidates": ADS[:2]}).json
    assert answer["history"]["newest_age_s"] > 100 * 86_400
    assert served.score({"user_id": "5", "candidates": ADS[:2], "timestamp": None}).status == 200


def test_anonymous_callers_have_neither_history_nor_profile(served, offline, now):
    answer = served.score({"user_id": None, "candidates": ADS[:5], "timestamp": now})
    assert answer.json["history"] == {"status": "empty", "length": 0, "newest_age_s": None}
    close(scores_of(answer), offline.logits(None, ADS[:5], now))


def test_a_number_and_its_text_are_one_id(served, now):
    as_text = served.score({"user_id": "5", "candidates": ["101"], "timestamp": now})
    as_number = served.score({"user_id": 5, "candidates": [101], "timestamp": now})
    assert scores_of(as_text) == scores_of(as_number)


# ---------------------------------------------------------------- candidates, context, ads


def test_all_forms_of_candidates_say_the_same(served, offline, now):
    context = {"placement": [["top", "side"][index % 2] for index in range(10)], "hour": list(range(10))}
    base = {"user_id": offline.busiest, "timestamp": now}
    columns = {**base, "candidates": {"ad_id": ADS[:10], "context": context}}
    rows = [
        {"ad_id": ad, "context": {name: column[index] for name, column in context.items()}}
        for index, ad in enumerate(ADS[:10])
    ]
    expected = offline.logits(offline.busiest, ADS[:10], now, candidate_context=context)
    close(scores_of(served.score(columns)), expected)
    assert scores_of(served.score({**base, "candidates": rows})) == scores_of(served.score(columns))


def test_plain_ids_and_objects_may_be_mixed_and_the_candidates_context_wins(served, offline, now):
    body = {
        "user_id": offline.busiest,
        "timestamp": now,
        "context": {"placement": "side", "hour": 18},
        "candidates": ["101", {"ad_id": "102", "context": {"placement": "top"}}, {"ad_id": 103}],
    }
    expected = offline.logits(
        offline.busiest,
        ["101", "102", "103"],
        now,
        context={"placement": "side", "hour": 18},
        candidate_context={"placement": ["side", "top", "side"]},
    )
    close(scores_of(served.score(body)), expected)


def test_null_is_the_same_as_leaving_out(served, offline, now):
    plain = {
        "user_id": offline.busiest,
        "timestamp": now,
        "context": {"hour": 3},
        "candidates": ["101", "102"],
    }
    nulls = {
        **plain,
        "context": {"hour": 3, "placement": None},
        "candidates": {
            "ad_id": ["101", "102"],
            "context": {"hour": [None, None]},
            "ad": {"price": [None, None]},
        },
        "request_id": None,
        "model": None,
        "deadline_ms": None,
        "explain": 0,
    }
    assert scores_of(served.score(nulls)) == scores_of(served.score(plain))


def test_given_ad_fields_win_over_the_catalogue_and_describe_unknown_ads(served, offline, now):
    overrides = {"101": {"price": 5.0}, "never-seen": {"category": "c1", "price": 2.0}}
    body = {
        "user_id": offline.busiest,
        "timestamp": now,
        "candidates": ["102", *({"ad_id": ad, "ad": features} for ad, features in overrides.items())],
    }
    answer = served.score(body)
    assert answer.json["unknown_ads"] == 1
    expected = offline.logits(offline.busiest, ["102", *overrides], now, overrides=overrides)
    close(scores_of(answer), expected)


def test_context_that_only_training_knows_is_accepted_and_ignored(served, now):
    base = {"user_id": "5", "candidates": ["101"], "timestamp": now}
    for value in (1, 9, "whatever", None):
        assert scores_of(served.score({**base, "context": {"position": value}})) == scores_of(
            served.score(base)
        )


def test_an_ad_may_be_asked_for_twice(served, now):
    first, second, third = scores_of(
        served.score({"user_id": "5", "candidates": ["101", "102", "101"], "timestamp": now})
    )
    assert first == third != second


def test_the_last_of_two_equal_names_counts(served, now):
    raw = f'{{"user_id": "1", "user_id": "5", "candidates": ["101"], "timestamp": {now}}}'.encode()
    assert scores_of(served.score(raw)) == scores_of(
        served.score({"user_id": "5", "candidates": ["101"], "timestamp": now})
    )


# ---------------------------------------------------------------- isolation


def test_the_order_of_candidates_changes_nothing(served, offline, now):
    base = {"user_id": offline.busiest, "timestamp": now}
    forward = scores_of(served.score({**base, "candidates": ADS}))
    backward = scores_of(served.score({**base, "candidates": ADS[::-1]}))
    close(backward[::-1], log_odds(forward))


def test_company_among_candidates_changes_nothing(served, offline, now):
    base = {"user_id": offline.busiest, "timestamp": now}
    together = scores_of(served.score({**base, "candidates": ADS}))
    alone = [scores_of(served.score({**base, "candidates": [ad]}))[0] for ad in ADS[:8]]
    close(alone, log_odds(together[:8]))


def test_many_candidates_are_scored_in_chunks_as_they_are_alone(served, offline, now):
    many = (ADS * 8)[:200]
    answer = served.score({"user_id": offline.busiest, "timestamp": now, "candidates": many})
    close(scores_of(answer), offline.logits(offline.busiest, many, now))


def test_requests_at_the_same_time_change_nothing(served, offline, now):
    bodies = [
        {"user_id": str(user), "candidates": (ADS * 6)[: 1 + 7 * user], "timestamp": now - 86_400 * user}
        for user in range(20)
    ]
    alone = [scores_of(served.score(body)) for body in bodies]
    with ThreadPoolExecutor(16) as pool:
        for _ in range(3):
            for expected, answer in zip(alone, pool.map(served.score, bodies), strict=True):
                # log-odds of the tiny model reach -100, where float32's last place is 7.6e-6: two of them are allowed
                np.testing.assert_allclose(
                    log_odds(scores_of(answer)), log_odds(expected), atol=1e-5, rtol=2**-22
                )


# ---------------------------------------------------------------- headers, msgpack, aliases


def test_msgpack_in_and_out(served, offline, now):
    body = {"user_id": offline.busiest, "candidates": ADS[:4], "timestamp": now, "request_id": 7}
    as_json = served.score(body).json
    packed = msgpack.packb(body)
    both = served.score(packed, **{"Content-Type": "application/msgpack"})
    assert both.headers["content-type"] == "application/msgpack"
    assert msgpack.unpackb(both.data) == as_json
    only_out = served.score(body, Accept="application/msgpack")
    assert msgpack.unpackb(only_out.data) == as_json
    only_in = served.score(packed, **{"Content-Type": "application/msgpack", "Accept": "application/json"})
    assert only_in.json == as_json


def test_v1_is_the_same_route(served, now):
    body = json.dumps({"user_id": "5", "candidates": ["101"], "timestamp": now, "request_id": "x"}).encode()
    assert served.ask("POST", "/v1/score", body).json == served.score(body).json


def test_either_name_of_the_model_may_be_asked_for(served, offline, now):
    for model in ("champion", offline.bundle.manifest.name):
        body = {"user_id": "5", "candidates": ["101"], "timestamp": now, "model": model}
        assert served.score(body).json["model"] == offline.bundle.manifest.name


def test_the_time_of_each_stage_travels_with_the_answer(served, now):
    timing = served.score({"user_id": "5", "candidates": ["101"], "timestamp": now}).headers["server-timing"]
    stages = dict(re.findall(r"(\w+);dur=([\d.]+)", timing))
    assert set(stages) == {"parse", "history", "encode", "queue", "infer", "respond"}
    assert 0 < sum(map(float, stages.values())) < 2000


@pytest.mark.parametrize(
    ("given", "header", "answered"),
    [
        ("r-1", {}, ("r-1", "r-1")),
        (17, {}, ("17", 17)),
        (None, {"X-Request-Id": "h-1"}, ("h-1", "h-1")),
        ("r-1", {"X-Request-Id": "h-1"}, ("r-1", "r-1")),
        ("caf\u00e9\r\nX-Evil: 1", {"X-Request-Id": "h-1"}, ("h-1", "caf\u00e9\r\nX-Evil: 1")),
    ],
)
def test_the_request_id_is_the_bodys_else_the_headers(served, now, given, header, answered):
    body = {"user_id": "5", "candidates": ["101"], "timestamp": now, "request_id": given}
    answer = served.score(body, **header)
    assert (answer.headers["x-request-id"], answer.json["request_id"]) == answered


def test_without_an_id_each_answer_gets_its_own(served):
    first, second = (served.get("/livez").headers["x-request-id"] for _ in range(2))
    assert first != second
    assert re.fullmatch(r"[0-9a-f]{20}", first)


async def test_a_caller_who_leaves_is_counted_and_leaves_no_trace(served, now):
    before = served.metric("longsight_queue_candidates")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}") as client:
        body = {"user_id": "5", "candidates": (ADS * 8)[:200], "timestamp": now}
        tasks = [asyncio.create_task(client.post("/score", json=body)) for _ in range(30)]
        await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert served.score({"user_id": "5", "candidates": ["101"], "timestamp": now}).status == 200
    assert before == 0
    for _ in range(500):  # what was running when its caller left runs to its end
        if not served.metric("longsight_queue_candidates"):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("candidates of callers who left stay in the queue")


# ---------------------------------------------------------------- users who come back


@pytest.mark.parametrize("kept", [3, 12, 30])
def test_who_comes_back_is_scored_by_what_was_added_meanwhile(served, offline, world, now, kept):
    everything = offline.history(offline.busiest)
    returning = f"returning-{kept}"
    steps = (
        everything[:kept],
        everything[:kept],
        everything[: kept + 3],
        everything[1 : kept + 3],
        everything[:0],
        everything,
    )
    cached, current = (served.metric(f"longsight_history_{name}_total") for name in ("cached", "current"))
    with redis.Redis.from_url(world.redis, protocol=2) as client:
        schema = offline.bundle.schema
        writer = StoreWriter(client, schema, claim_layout(client, schema))
        for stored in steps:
            writer.histories([(key(returning), stored)], advance=lambda _count: None)
            answer = served.score({"user_id": returning, "candidates": ADS, "timestamp": now})
            asked = replace(offline.request(returning, ADS, now), history=stored)
            close(scores_of(answer), offline.logits_of(asked))
            assert answer.json["history"]["length"] == min(12, len(stored))
    assert served.metric("longsight_history_cached_total") == cached + 2
    assert served.metric("longsight_history_current_total") == current  # each value was written anew
    for _ in range(2):
        served.score({"user_id": returning, "candidates": ADS, "timestamp": now})
    assert served.metric("longsight_history_current_total") == current + 2
