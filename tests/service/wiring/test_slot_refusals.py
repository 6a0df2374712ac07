"""Changes of slots that are refused change nothing."""

import json

import pytest

from tests.support.slots import (
    TOKEN,
    VERSIONS,
    answered_by,
    change,
    roll_back,
)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("damaged", "damaged, its checksum does not hold"),
        ("liar", "golden request 0"),
        ("nothing", "no bundle"),
        ("link", "leads out"),
        ("../outside", "no name of a bundle"),
        ("/etc", "no name of a bundle"),
        ("a/../b", "no name of a bundle"),
        (".hidden", "no name of a bundle"),
        ("a\u0000b", "no name of a bundle"),
        ("", "no name of a bundle"),
    ],
)
def test_a_bad_bundle_is_refused_and_the_old_one_serves_on(refusing, name, reason):
    answer = change(refusing, "champion", name)
    assert (answer.status, answer.json["type"]) == (422, "urn:longsight:bundle-refused"), answer.data
    assert reason in answer.json["detail"]
    assert answered_by(refusing) == VERSIONS["a"]
    assert refusing.get("/models").json["generation"] == 0


@pytest.mark.parametrize(
    ("slot", "body", "status", "where"),
    [
        ("champion", {"bundle": None}, 422, "bundle"),
        ("champion", {"bundle": "b", "share": 0.5}, 422, "share"),
        ("challenger", {"bundle": "b", "share": 1.5}, 422, "share"),
        ("challenger", {"bundle": "b", "shaer": 0.5}, 422, "shaer"),
        ("challenger", {"share": 0.5}, 422, "bundle"),
        ("challenger", {"bundle": 7}, 422, "bundle"),
    ],
)
def test_a_change_that_makes_no_sense_says_where(refusing, slot, body, status, where):
    answer = refusing.ask("POST", f"/models/{slot}", json.dumps(body), {"Authorization": f"Bearer {TOKEN}"})
    assert answer.status == status
    assert answer.json["errors"][0]["where"] == where


def test_what_is_no_slot_no_json_or_has_no_past_is_told_apart(refusing):
    assert change(refusing, "chmpion", "b").json["type"] == "urn:longsight:unknown-slot"
    answer = refusing.ask("POST", "/models/champion", b"{", {"Authorization": f"bearer {TOKEN}"})
    assert (answer.status, answer.json["type"]) == (400, "urn:longsight:not-json")
    answer = roll_back(refusing, "champion")
    assert (answer.status, answer.json["type"]) == (409, "urn:longsight:slot-conflict")


@pytest.mark.parametrize(
    "given",
    [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer \u00fc"],
)
@pytest.mark.parametrize("path", ["/models/champion", "/models/champion/rollback", "/models/unknown"])
def test_without_the_token_nothing_is_changed(refusing, given, path):
    headers = {} if given is None else {"Authorization": given.encode("latin-1")}
    answer = refusing.ask("POST", path, json.dumps({"bundle": "b"}), headers)
    assert (answer.status, answer.json["type"]) == (401, "urn:longsight:unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"
    assert refusing.get("/models").json["generation"] == 0


def test_until_a_token_is_set_every_change_is_401(serving):
    with serving(LONGSIGHT_AUTH__ADMIN_TOKEN="") as started:
        started.wait()
        for token in ("", "anything"):
            answer = change(started, "champion", "b", token=token)
            assert answer.status == 401
            assert "LONGSIGHT_AUTH__ADMIN_TOKEN" in answer.json["detail"]
        assert started.get("/models").status == 200
