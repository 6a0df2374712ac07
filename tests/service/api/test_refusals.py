"""Every way to be refused has one shape, one status, and names the place; nothing is scored and nothing changes.

{"type": "urn:longsight:...", "title": ..., "status": 422, "detail": ..., "request_id": ...,
 "errors": [{"where": "candidates[3].ad.price", "detail": ...}]}
"""

import json
import socket
import time

import msgpack
import pytest

OK = {"user_id": "5", "candidates": ["101", "102"], "timestamp": 1_508_000_000}


def assert_problem(answer, status, kind):
    assert answer.status == status, answer.data
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json
    assert set(body) - {"errors"} == {"type", "title", "status", "detail", "request_id"}
    assert (body["status"], body["type"]) == (status, kind)
    assert body["detail"]
    assert body["request_id"] == answer.headers["x-request-id"]
    assert ("errors" in body) == (status == 422)
    return body


def assert_invalid(answer, where, what):
    body = assert_problem(answer, 422, "urn:longsight:invalid-request")
    found = {error["where"]: error["detail"] for error in body["errors"]}
    assert where in found, found
    assert what in found[where]


def changed(**changes):
    return {name: value for name, value in {**OK, **changes}.items() if value is not ...}


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"nonsense", b'{"user_id": "5",}', b"\xff\xfe", b"[" * 100_000, b'{"user_id": "\\ud800"}'],
    ids=["empty", "cut off", "no json", "trailing comma", "not utf-8", "nested too deep", "half a surrogate"],
)
def test_a_body_that_is_not_json(served, raw):
    assert_problem(served.score(raw), 400, "urn:longsight:not-json")


def test_a_body_that_is_not_msgpack(served):
    answer = served.score(b"\xc1", **{"Content-Type": "application/msgpack"})
    assert_problem(answer, 400, "urn:longsight:not-json")


@pytest.mark.parametrize(
    ("body", "where", "what"),
    [
        ([], "body", "object"),
        ({}, "user_id", "required"),
        (changed(user_id=...), "user_id", "required"),
        (changed(candidates=...), "candidates", "required"),
        (changed(user_id=True), "user_id", "a string or an integer"),
        (changed(user_id=1.5), "user_id", "a string or an integer"),
        (changed(user_id=""), "user_id", "at least 1 character"),
        (changed(user_id="x" * 257), "user_id", "at most 256"),
        (changed(user_id="x" * 1_000_000), "user_id", "at most 256"),
        (changed(user_id="\u00e4" * 200), "user_id", "longer than 256 bytes"),
        (changed(user_id=10**300), "user_id", "longer than 256 bytes"),
        (changed(candidates=[]), "candidates", "at least 1"),
        (changed(candidates=5), "candidates", "a list of ids and objects or an object of columns"),
        (changed(candidates=["1"] * 201), "candidates", "at most 200"),
        (changed(candidates=["1", None]), "candidates[1]", "a string or an integer or an object"),
        (changed(candidates=["1", 2.5]), "candidates[1]", "a string or an integer or an object"),
        (changed(candidates=["1", ""]), "candidates[1]", "at least 1 character"),
        (changed(candidates=["1", "\u00e4" * 200]), "candidates[1]", "longer than 256 bytes"),
        (changed(candidates=[{"ad_id": "\u00e4" * 200}]), "candidates[0].ad_id", "longer than 256 bytes"),
        (changed(candidates=[{"ad": {}}]), "candidates[0].ad_id", "required"),
        (changed(candidates=[{"ad_id": "1", "colour": 1}]), "candidates[0].colour", "no such field"),
        (
            changed(candidates=["1", {"ad_id": "1", "ad": {"colour": 1}}]),
            "candidates[1].ad.colour",
            "no such field",
        ),
        (
            changed(candidates=[{"ad_id": "1", "ad": {"ad_id": "2"}}]),
            "candidates[0].ad.ad_id",
            "no such field",
        ),
        (changed(candidates=[{"ad_id": "1", "ad": {"price": "2"}}]), "candidates[0].ad.price", "number"),
        (changed(candidates=[{"ad_id": "1", "ad": {"price": True}}]), "candidates[0].ad.price", "number"),
        (changed(candidates=[{"ad_id": "1", "ad": {"price": 1e39}}]), "candidates[0].ad.price", "less than"),
        (
            changed(candidates=[{"ad_id": "1", "ad": {"category": 1.5}}]),
            "candidates[0].ad.category",
            "string",
        ),
        (changed(candidates={"ad_id": []}), "candidates.ad_id", "at least 1"),
        (changed(candidates={"ad_id": ["1"] * 201}), "candidates.ad_id", "at most 200"),
        (changed(candidates={"ad_id": ["1", None]}), "candidates.ad_id[1]", "a string or an integer"),
        (changed(candidates={"ad_id": ["\u00e4" * 200]}), "candidates.ad_id[0]", "longer than 256 bytes"),
        (
            changed(candidates={"ad_id": ["1"], "ad": {"price": [1, 2]}}),
            "candidates.ad.price",
            "2 values for 1",
        ),
        (
            changed(candidates={"ad_id": ["1"], "context": {"hour": []}}),
            "candidates.context.hour",
            "0 values for 1",
        ),
        (
            changed(candidates={"ad_id": ["1"], "ad": {"colour": [1]}}),
            "candidates.ad.colour",
            "no such field",
        ),
        (changed(candidates={"ad_id": ["1"], "ad": {"price": ["x"]}}), "candidates.ad.price[0]", "number"),
        (changed(context={"weather": "x"}), "context.weather", "no such field"),
        (changed(context={"hour": "18"}), "context.hour", "number"),
        (changed(context={"placement": 1.5}), "context.placement", "a string or an integer"),
        (changed(context=[]), "context", "object"),
        (changed(colour="red"), "colour", "no such field"),
        (changed(timestamp=-1), "timestamp", "negative"),
        (changed(timestamp=int(time.time()) + 2 * 86_400), "timestamp", "more than a day ahead"),
        (changed(timestamp=1_508_000_000_000), "timestamp", "looks like milliseconds"),
        (changed(timestamp=1.5), "timestamp", "integer"),
        (changed(timestamp="1508000000"), "timestamp", "integer"),
        (changed(timestamp=True), "timestamp", "integer"),
        (changed(deadline_ms=0), "deadline_ms", "greater than 0"),
        (changed(deadline_ms=-5), "deadline_ms", "greater than 0"),
        (changed(deadline_ms="soon"), "deadline_ms", "number"),
        (changed(request_id=1.5), "request_id", "a string or an integer"),
        (changed(request_id="\u00e4" * 200), "request_id", "longer than 256 bytes"),
        (changed(model=7), "model", "string"),
        (changed(explain=-1), "explain", "greater than or equal to 0"),
        (changed(explain="3"), "explain", "integer"),
    ],
    ids=lambda value: None if isinstance(value, str) else json.dumps(value)[:60],
)
def test_a_body_that_breaks_a_rule(served, body, where, what):
    assert_invalid(served.score(body), where, what)


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("place", ["context.hour", "candidates[0].ad.price"])
def test_numbers_must_be_finite(served, token, place):
    body = changed(candidates=[{"ad_id": "1", "ad": {"price": 77.0}}], context={"hour": 88.0})
    number = "88.0" if place.startswith("context") else "77.0"
    assert_invalid(served.score(json.dumps(body).replace(number, token).encode()), place, "finite")


def test_msgpack_is_held_to_the_same_rules(served):
    headers = {"Content-Type": "application/msgpack"}
    assert_invalid(served.score(msgpack.packb(changed(user_id=b"5")), **headers), "user_id", "a string")
    nan = changed(context={"hour": float("nan")})
    assert_invalid(served.score(msgpack.packb(nan), **headers), "context.hour", "finite")


def test_every_mistake_is_named_at_once(served):
    body = changed(user_id=1.5, timestamp="x", candidates=["1", None, {"ad_id": "2", "ad": {"price": "x"}}])
    errors = served.score(body).json["errors"]
    assert [error["where"] for error in errors] == [
        "user_id",
        "candidates[1]",
        "candidates[2].ad.price",
        "timestamp",
    ]


def test_a_model_that_is_not_served(served):
    body = assert_problem(served.score(changed(model="gpt")), 404, "urn:longsight:unknown-model")
    assert "champion" in body["detail"]


def test_a_path_that_is_not_there(served):
    assert_problem(served.get("/nothing"), 404, "about:blank")


def test_a_method_that_a_path_does_not_take(served):
    answer = served.get("/score")
    assert_problem(answer, 405, "about:blank")
    assert answer.headers["allow"] == "POST"


def test_a_body_that_is_too_large_by_its_own_account(served):
    answer = served.score(b" " * ((8 << 20) + 1))
    assert_problem(answer, 413, "urn:longsight:body-too-large")


def test_a_body_that_turns_out_too_large_without_having_said_so(served):
    pieces = (b" " * (1 << 20) for _ in range(9))
    answer = served.ask("POST", "/score", pieces, {"Content-Type": "application/json"}, encode_chunked=True)
    assert_problem(answer, 413, "urn:longsight:body-too-large")


def test_a_deadline_that_has_passed_before_the_scoring(served):
    assert_problem(served.score(changed(deadline_ms=0.001)), 504, "urn:longsight:deadline-exceeded")
    assert served.metric("longsight_shed_total", reason="deadline") >= 1


def test_a_caller_who_leaves_while_sending_harms_nobody(served):
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert served.score(OK).status == 200


def test_after_all_that_the_service_is_as_it_was(served):
    assert served.get("/readyz").json["ready"] is True
    assert served.score(OK).status == 200
    assert served.metric("longsight_queue_candidates") == 0
    assert served.metric("longsight_requests_total", route="/score", code="500") == 0
