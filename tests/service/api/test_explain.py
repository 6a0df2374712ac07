"""`explain: k` names the k behaviours that counted most for each candidate, by the model's own weights."""

from concurrent.futures import ThreadPoolExecutor

import msgpack
import numpy as np
import polars as pl
import pytest
import torch

from contract.keys import key_hex
from service.scoring.explain import strongest
from tests.support.forgery import forge
from tests.support.serving import log_odds, service
from tests.support.tiny import tiny_bundle, tiny_run
from training.run import Run

ADS = [str(100 + index) for index in range(25)]
MODELS = ["tin", "din", "mean_pool", "diffumin"]
L = 12
PATIENT = {"LONGSIGHT_REDIS__READ_TIMEOUT_S": "2"}  # on a busy machine a late history would be another answer


@pytest.fixture
def now(offline):
    return offline.last_s + 3600


@pytest.fixture(scope="module", params=MODELS)
def explained(request, world, tmp_path_factory):
    """A service of a model, and the model itself."""
    home = tmp_path_factory.mktemp(request.param)
    chunked = {"LONGSIGHT_BATCHING__CHUNK_CANDIDATES": "8", **PATIENT}
    with service(tiny_bundle(home, request.param), world.redis, **chunked) as started:
        yield started.wait(), Run.load(tiny_run(home, request.param)).model


def expected(model, offline, raw):
    """Return `weight_NL` by torch, on the raw history."""
    tensors = raw.encode(offline.encoder)
    inputs = {name: torch.from_numpy(tensors[name]) for name in model.inputs}
    with torch.inference_mode():
        return model.behavior_weights(inputs)[0].numpy()


def ask(served, **body):
    answer = served.score(body)
    assert answer.status == 200, answer.data
    return answer.json


def weights_of(explanations):
    return np.array([[entry["weight"] for entry in entries] for entries in explanations])


# ---------------------------------------------------------------- weights and scores


@pytest.mark.parametrize("days_ago", [0, 25, 60])
def test_the_strongest_behaviours_have_torchs_weights(explained, offline, now, days_ago):
    served, model = explained
    user, at = offline.busiest, now - days_ago * 86_400
    weight_NL = expected(model, offline, offline.request(user, ADS, at))
    records = offline.history(user)
    records = records[records["timestamp"] < at][-L:]
    found = ask(served, user_id=user, candidates=ADS, timestamp=at, explain=5)["explanations"]
    place_NK, _ = strongest(weight_NL, 5)
    np.testing.assert_allclose(
        weights_of(found), np.take_along_axis(weight_NL, place_NK, axis=1), rtol=1e-4, atol=1e-6
    )
    strengths_NK = np.abs(weights_of(found))
    assert (strengths_NK[:, :-1] >= strengths_NK[:, 1:]).all()
    # where no two weights are close, the behaviours are torch's too
    sorted_NL = np.sort(np.abs(weight_NL), axis=1)[:, ::-1]
    clear = (np.diff(sorted_NL, axis=1)[:, :5] < -1e-5).all(axis=1)
    times = records["timestamp"]
    for n in np.flatnonzero(clear):
        assert [entry["timestamp"] for entry in found[n]] == times[place_NK[n]].tolist()


def test_scores_are_those_of_the_plain_answer(explained, offline, now):
    served, _ = explained
    body = {"user_id": offline.busiest, "candidates": ADS, "timestamp": now, "context": {"hour": 7}}
    plain, more = ask(served, **body), ask(served, **body, explain=3)
    np.testing.assert_allclose(log_odds(more["scores"]), log_odds(plain["scores"]), rtol=0, atol=1e-5)
    for name in ("model", "version", "history", "unknown_ads"):
        assert more[name] == plain[name]
    assert list(more)[-1] == "explanations"
    assert "explanations" not in plain


def test_more_than_there_is_names_all_behaviours_and_no_padding(explained, offline, now):
    served, model = explained
    for user in range(2, 8):
        answer = ask(served, user_id=str(user), candidates=ADS[:3], timestamp=now, explain=10**12)
        length = answer["history"]["length"]
        assert [len(entries) for entries in answer["explanations"]] == [length] * 3
        if not length:
            continue
        weight_NL = expected(model, offline, offline.request(str(user), ADS[:3], now))
        total_N = weights_of(answer["explanations"]).sum(axis=1)
        np.testing.assert_allclose(total_N, weight_NL.sum(axis=1), rtol=1e-4, atol=1e-5)
        times = offline.history(str(user))["timestamp"][-L:]
        for entries in answer["explanations"]:
            assert sorted(entry["timestamp"] for entry in entries) == sorted(times.tolist())


def test_explained_and_plain_requests_at_the_same_time_change_nothing(explained, offline, now):
    served, _ = explained
    bodies = [
        {"user_id": str(user), "candidates": ADS[: 1 + user], "timestamp": now, "explain": user % 3}
        for user in range(2, 22)
    ]
    alone = [ask(served, **body) for body in bodies]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda body: ask(served, **body), bodies * 2))
    for expected_, found in zip(alone * 2, together, strict=True):
        np.testing.assert_allclose(
            log_odds(found["scores"]), log_odds(expected_["scores"]), rtol=0, atol=1e-5
        )
        assert ("explanations" in found) == ("explanations" in expected_)
        for ours, theirs in zip(
            found.get("explanations", []), expected_.get("explanations", []), strict=True
        ):
            assert ours == theirs


# ---------------------------------------------------------------- words


def test_behaviours_are_told_in_the_words_of_the_log(explained, now, world):
    served, _ = explained
    rows = pl.read_parquet(world.log / "behaviors.parquet")
    fields = ["timestamp", "action", "product_id", "category", "paid"]
    missing = set()
    for user in range(2, 20):
        logged = rows.filter(pl.col("user_id") == user).select(fields).rows()
        (entries,) = ask(served, user_id=user, candidates=["101"], timestamp=now, explain=L)["explanations"]
        for entry in entries:
            assert list(entry) == [*fields, "weight"]
            assert tuple(entry.values())[:-1] in logged
            missing |= {name for name, value in entry.items() if value is None}
    assert missing == {"category", "paid"}


def test_ids_without_a_name_are_told_by_their_keys(offline, now, world, tmp_path):
    bundle = tiny_bundle(tmp_path)
    (bundle / "vocabularies" / "product.names").unlink()
    forge(bundle)
    body = {"user_id": offline.busiest, "candidates": ["101"], "timestamp": now, "explain": L}
    with service(bundle, world.redis, **PATIENT) as started:
        (entries,) = ask(started.wait(), **body)["explanations"]
    keys = {f"#{key_hex(int(value))}" for value in offline.history(offline.busiest)[-L:]["product_id"]}
    assert {entry["product_id"] for entry in entries} == keys
    assert {entry["category"] for entry in entries} <= {"c0", "c1", "c2", "c3", None}


def test_msgpack_says_the_same_as_json(explained, offline, now):
    served, _ = explained
    body = {
        "user_id": offline.busiest,
        "candidates": ADS[:3],
        "timestamp": now,
        "explain": 4,
        "request_id": 1,
    }
    packed = served.score(msgpack.packb(body), **{"Content-Type": "application/msgpack"})
    assert msgpack.unpackb(packed.data) == served.score(body).json
    aliased = served.ask("POST", "/v1/score", msgpack.packb(body), {"Content-Type": "application/msgpack"})
    assert msgpack.unpackb(aliased.data) == served.score(body).json


# ---------------------------------------------------------------- nothing to explain


def test_without_a_history_explanations_are_empty_lists(explained, now):
    served, _ = explained
    for user in (None, "nobody", "1"):
        answer = ask(served, user_id=user, candidates=ADS[:3], timestamp=now, explain=5)
        assert answer["history"]["length"] == 0
        assert answer["explanations"] == [[], [], []]


def test_a_store_that_is_away_leaves_empty_explanations(world, now):
    away = {"LONGSIGHT_REDIS__WAIT_S": "0.1"}
    with service(world.bundle, "redis://127.0.0.1:1/0", **away) as started:
        answer = ask(started.wait(), user_id="5", candidates=ADS[:2], timestamp=now, explain=5)
    assert answer["history"]["status"] == "unavailable"
    assert answer["explanations"] == [[], []]


@pytest.mark.parametrize("nothing", [0, None])
def test_asking_for_none_is_the_same_as_not_asking(explained, offline, now, nothing):
    served, _ = explained
    body = {"user_id": offline.busiest, "candidates": ADS[:2], "timestamp": now}
    assert "explanations" not in ask(served, **body, explain=nothing)


@pytest.mark.parametrize("made", ["popularity", "an old bundle"])
def test_bundles_without_explanations_say_so(world, now, tmp_path, made):
    if made == "popularity":
        bundle = tiny_bundle(tmp_path, made)
    else:
        bundle = tiny_bundle(tmp_path)
        (bundle / "explain.onnx").unlink()
        forge(bundle)
    with service(bundle, world.redis, **PATIENT) as started:
        started.wait()
        body = {"user_id": "5", "candidates": ADS[:2], "timestamp": now}
        refused = started.score({**body, "explain": 1})
        assert refused.status == 422
        assert refused.json["errors"][0]["where"] == "explain"
        assert "this bundle has no explanations" in refused.json["detail"]
        assert started.score({**body, "explain": 0}).status == started.score(body).status == 200


def test_more_behaviours_than_one_answer_may_name_are_refused(explained, now):
    served, _ = explained
    many = {"user_id": "5", "candidates": (ADS * 80)[:2000], "timestamp": now}
    refused = served.score({**many, "explain": 100})
    assert refused.status == 422
    assert refused.json["errors"] == [
        {
            "where": "explain",
            "detail": "12 behaviours for each of 2000 candidates are more than the 20000 that one answer may name",
        }
    ]
    assert served.score({**many, "explain": 10}).status == 200


# ---------------------------------------------------------------- opened once, when first asked for


def opened(started):
    return started.output().count("explanations are asked for")


def maps(started):
    with open(f"/proc/{started.process.pid}/maps") as file:  # noqa: PTH123 - the kernel's
        return file.read().count("model.onnx.data")


def test_the_graph_is_opened_by_the_first_who_asks_and_once(world, offline, now):
    body = {"user_id": offline.busiest, "candidates": ADS, "timestamp": now}
    with service(world.bundle, world.redis, **PATIENT) as started:
        started.wait()
        plain = [ask(started, **body)["scores"] for _ in range(3)]
        mapped = maps(started)
        assert opened(started) == 0
        ask(started, user_id="nobody", candidates=ADS, timestamp=now, explain=5)
        assert (opened(started), maps(started)) == (0, mapped)
        with ThreadPoolExecutor(16) as pool:
            asked = list(pool.map(lambda explain: ask(started, **body, explain=explain), [2, 0] * 12))
        assert opened(started) == 1
        for answer in asked:
            np.testing.assert_allclose(log_odds(answer["scores"]), log_odds(plain[0]), rtol=0, atol=1e-5)
        assert len({str(answer["explanations"]) for answer in asked if "explanations" in answer}) == 1


def test_time_spent_explaining_is_in_the_stages(world, offline, now):
    with service(world.bundle, world.redis, **PATIENT) as started:
        started.wait()
        body = {"user_id": offline.busiest, "candidates": ADS, "timestamp": now, "explain": 5}
        timing = started.score(body).headers["server-timing"]
        stages = {part.split(";")[0]: float(part.split("=")[1]) for part in timing.split(", ")}
        assert min(stages["queue"], stages["infer"]) > 0
        assert started.metric("longsight_stage_seconds_count", stage="infer") == 1


def test_a_graph_that_can_not_be_opened_fails_explanations_alone(world, offline, now, tmp_path):
    bundle = tiny_bundle(tmp_path)
    (bundle / "explain.onnx").write_bytes(b"nonsense")
    forge(bundle)
    body = {"user_id": offline.busiest, "candidates": ADS[:2], "timestamp": now}
    with service(bundle, world.redis, **PATIENT) as started:
        started.wait()
        for _ in range(2):
            failed = started.score({**body, "explain": 3})
            assert (failed.status, failed.json["type"]) == (500, "urn:longsight:inference")
            assert started.score(body).status == 200
        assert "explain.onnx: onnxruntime can't load it" in started.output()
