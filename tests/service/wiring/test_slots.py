"""Slots in real services: changed, under load too, rolled back, kept; challenger and shadow."""

import json
import shutil
import signal

import msgpack
import numpy as np
import pytest

from contract.schema import Schema
from tests.support.forgery import forge
from tests.support.serving import free_port
from tests.support.slots import (
    BODY,
    VERSIONS,
    Callers,
    answered_by,
    change,
    roll_back,
    slots,
)
from tests.support.workers import until


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_bundle_is_put_rolled_back_and_put_back(serving, workers):
    with serving("--workers", workers) as started:
        started.wait()
        assert answered_by(started) == VERSIONS["a"]
        answer = change(started, "champion", "b")
        assert answer.status == 200
        row = slots(answer)["champion"]
        assert (row["name"], row["version"], row["bundle"]) == ("mean_pool", VERSIONS["b"], "b")
        assert row["previous"] == {"name": "tin", "version": VERSIONS["a"], "bundle": "a"}
        for _ in range(20):
            assert answered_by(started) == VERSIONS["b"]
        for expected in ("a", "b", "a"):
            assert roll_back(started, "champion").status == 200
            assert {answered_by(started) for _ in range(10)} == {VERSIONS[expected]}
        assert roll_back(started, "champion").json == started.get("/models").json
        info = [line for line in started.get("/metrics").data.decode().splitlines() if "model_info{" in line]
        assert len(info) == 1
        assert VERSIONS["b"] in info[0]
        assert started.get("/readyz").json["slots"]["champion"]["version"] == VERSIONS["b"]


def test_changes_under_load_fail_no_answer_and_mix_no_versions(serving):
    with serving("--workers", "2") as started:
        started.wait()
        assert change(started, "challenger", "b", share=0).status == 200
        names = {VERSIONS["a"]: "champion", VERSIONS["b"]: "challenger"}
        expected = {
            version: started.score({**BODY, "model": name}).json["scores"] for version, name in names.items()
        }
        assert not np.allclose(expected[VERSIONS["a"]], expected[VERSIONS["b"]], rtol=1e-2)
        assert change(started, "challenger", None).status == 200
        callers = Callers(started, expected)
        for turn in range(8):
            seen = callers.versions.total()
            until(lambda seen=seen: callers.versions.total() > seen + 40)
            assert change(started, "champion", "ba"[turn % 2]).status == 200
        callers.end()
        assert callers.failed == []
        assert callers.mixed == []
        assert set(callers.versions) == {VERSIONS[name] for name in "ab"}
        assert "Traceback" not in started.output()


def test_slots_outlive_a_restart_and_another_bundle_given_means_that_one(serving):
    port = str(free_port())
    with serving("--port", port) as started:
        started.port = int(port)
        started.wait()
        assert change(started, "champion", "b").status == 200
        assert change(started, "challenger", "a", share=0.5).status == 200
        before = started.get("/models").json
        assert started.end() == 0
    with serving("--port", port, "--workers", "2") as started:
        started.port = int(port)
        started.wait()
        assert started.get("/models").json == before
        assert answered_by(started, user_id=None) == VERSIONS["b"]
        assert started.end(signal.SIGKILL) != 0
    with serving("--port", port, bundle="c") as started:
        started.port = int(port)
        started.wait()
        assert answered_by(started) == VERSIONS["c"]
        assert slots(started.get("/models"))["challenger"]["name"] is None


def test_a_kept_bundle_that_is_gone_is_said_with_the_file_to_remove(serving, root, tmp_path):
    port = str(free_port())
    gone = shutil.copytree(root / "b", root / "gone")
    with serving("--port", port) as started:
        started.port = int(port)
        started.wait()
        assert change(started, "champion", "gone").status == 200
        assert change(started, "shadow", "gone").status == 200
    shutil.rmtree(gone)
    with serving("--port", port) as started:
        assert started.process.wait(40) == 2
        assert f"{port}.json names it; remove that file" in started.output()
    kept = json.loads((tmp_path / "state" / f"{port}.json").read_text())
    kept["slots"]["champion"] = {
        "bundle": kept["slots"]["champion"]["previous"],
        "share": None,
        "previous": None,
    }
    (tmp_path / "state" / f"{port}.json").write_text(json.dumps(kept))
    with serving("--port", port) as started:  # only the champion is needed
        started.port = int(port)
        started.wait()
        assert answered_by(started) == VERSIONS["a"]
        assert "no bundle" in slots(started.get("/models"))["shadow"]["problem"]


def test_a_link_inside_the_root_is_followed_to_what_it_names_now(serving):
    with serving() as started:
        started.wait()
        assert slots(change(started, "champion", "current"))["champion"]["bundle"] == "b"


def test_the_challenger_answers_its_share_of_the_users_and_always_the_same(serving):
    users = [*range(300), *(f"user {index}" for index in range(100))]
    port = str(free_port())

    def challenged(started):
        return {user for user in users if answered_by(started, user_id=user) == VERSIONS["b"]}

    with serving("--port", port, "--workers", "2") as started:
        started.port = int(port)
        started.wait()
        assert change(started, "challenger", "b", share=0.3).status == 200
        some = challenged(started)
        assert 80 < len(some) < 160
        assert challenged(started) == some
        assert challenged_as_text(started, some)
        assert change(started, "challenger", "b", share=0.6).status == 200
        more = challenged(started)
        assert some < more
        assert 190 < len(more) < 290
        for _ in range(20):
            assert answered_by(started, user_id=None) == VERSIONS["a"]
        user = min(user for user in more if isinstance(user, int))
        assert answered_by(started, user_id=user, model="champion") == VERSIONS["a"]
        assert answered_by(started, user_id=user, model="tin") == VERSIONS["a"]
        assert answered_by(started, user_id=None, model="mean_pool") == VERSIONS["b"]
        answer = started.score({**BODY, "model": "shadow"})
        assert (answer.status, answer.json["type"]) == (404, "urn:longsight:unknown-model")
    with serving("--port", port) as started:
        started.port = int(port)
        started.wait()
        assert challenged(started) == more
        assert change(started, "challenger", None).status == 200
        assert challenged(started) == set()


def test_a_challenger_that_is_rolled_back_keeps_its_share_and_an_empty_slot_comes_back_too(serving):
    def held(answer):
        assert answer.status == 200, answer.data
        row = slots(answer)["challenger"]
        return row["bundle"], row["share"]

    with serving() as started:
        started.wait()
        assert held(change(started, "challenger", "b", share=0)) == ("b", 0)
        assert held(roll_back(started, "challenger")) == (None, None)
        assert held(roll_back(started, "challenger")) == ("b", 0)
        assert held(change(started, "challenger", "c", share=0)) == ("c", 0)
        assert held(roll_back(started, "challenger")) == ("b", 0)
        assert held(change(started, "challenger", "c", share=0.5)) == ("c", 0.5)
        assert held(change(started, "challenger", None)) == (None, None)
        for expected in (("c", 0.5), (None, None), ("c", 0.5)):
            assert held(roll_back(started, "challenger")) == expected
        assert roll_back(started, "shadow").status == 409


def challenged_as_text(started, users):
    numbers = [user for user in users if isinstance(user, int)][:10]
    return all(answered_by(started, user_id=str(user)) == VERSIONS["b"] for user in numbers)


def test_a_challenger_of_another_schema_is_asked_by_its_own_rules(serving, root):
    def another_schema(data):
        data["schema"]["vocabularies"]["product"]["min_count"] = 3
        data["fingerprint"] = Schema.from_json(data["schema"]).fingerprint()
        data["version"] = "20260404T000000Z-dddddd"

    forge(shutil.copytree(root / "b", root / "other"), another_schema)
    with serving() as started:
        started.wait()
        assert change(started, "challenger", "other", share=0.5).status == 200
        by_user = {user: answered_by(started, user_id=user) for user in range(40)}
        assert set(by_user.values()) == {VERSIONS["a"], "20260404T000000Z-dddddd"}
        for user, version in by_user.items():
            packed = started.score(
                msgpack.packb({**BODY, "user_id": user}), **{"Content-Type": "application/msgpack"}
            )
            assert msgpack.unpackb(packed.data)["version"] == version
        assert started.score({**BODY, "model": "challenger"}).json["model"] == "mean_pool"
        assert started.score(b"{").status == 400
        answer = started.score({**BODY, "user_id": [5], "model": 5})
        assert [item["where"] for item in answer.json["errors"]] == ["user_id", "model"]


def test_the_shadow_scores_what_the_champion_answered_and_is_heard_by_nobody(serving):
    with serving("--workers", "2", LONGSIGHT_MODELS__SHADOW_LOAD="1") as started:
        started.wait()
        assert change(started, "shadow", "c").status == 200  # the same weights
        for _ in range(60):
            assert answered_by(started) == VERSIONS["a"]
        results = ("scored", "dropped")
        until(lambda: sum(started.metric("longsight_shadow_total", result=one) for one in results) == 60)
        scored = started.metric("longsight_shadow_total", result="scored")
        assert scored >= 30
        until(lambda: started.metric("longsight_shadow_score_difference_count") == scored * 25)
        assert started.metric("longsight_shadow_score_difference_bucket", le="1e-05") == scored * 25
        assert started.metric("longsight_shadow_total", result="failed") == 0
        assert started.metric("longsight_score_count") == 60 * 25
        assert change(started, "shadow", "b").status == 200
        for _ in range(20):
            answered_by(started)
        until(lambda: started.metric("longsight_shadow_score_difference_count") > scored * 25)
        assert started.metric("longsight_shadow_score_difference_bucket", le="1e-05") == scored * 25
