"""A line of the file says all that the request was, and is read again as it was written."""

import base64
import json

import msgpack
import numpy as np
import pytest

from service.capture.lines import line_of
from service.capture.record import HEAD, CaptureError, packed, parse


def test_what_was_written_is_read_again(record):
    scores = np.random.default_rng(0).random(50)
    captured = parse(line_of(record("r-9", scores=scores, why="slow")))
    assert (captured.request_id, captured.why, captured.slot) == ("r-9", "slow", "champion")
    assert (captured.model, captured.version, captured.timestamp) == ("din", "v1", 1_514_300_000)
    assert captured.answer.scores == scores.tolist()
    assert captured.answer.history.model_dump() == {"status": "hit", "length": 7, "newest_age_s": 60}
    assert captured.stage_ms == {"parse": 0.1, "infer": 2.5}
    assert captured.total_ms == 3.0
    assert captured.at == 1_790_000_000.25


def test_every_line_begins_alike_and_has_one_end(record):
    raw = b'{\r\n "user_id": null,\n "candidates": ["one\\nword"]\n}\n'
    line = line_of(record(raw=raw))
    assert line.startswith(HEAD)
    assert line.count(b"\n") == 1
    assert b"\r" not in line
    assert parse(line).body == {"user_id": None, "candidates": ["one\nword"]}


def test_it_is_sent_again_at_the_time_that_was_used_and_without_its_deadline(record):
    raw = b'{"user_id": 5, "candidates": [1], "deadline_ms": 3, "context": {"hour": 1e-7}}'
    sent = json.loads(packed(parse(line_of(record(raw=raw)))))
    assert sent == {"user_id": 5, "candidates": [1], "context": {"hour": 1e-7}, "timestamp": 1_514_300_000}


def test_msgpack_is_sent_again_as_msgpack(record):
    body = {"user_id": "ü", "candidates": {"ad_id": [1, 2]}, "timestamp": 1_514_300_000}
    captured = parse(line_of(record(raw=msgpack.packb(body), content_type=b"application/x-msgpack")))
    assert captured.is_msgpack
    assert msgpack.unpackb(packed(captured)) == body


def test_what_json_has_no_word_for_survives(record):
    raw = b'{"user_id": 5, "candidates": [1], "context": {"position": NaN}}'
    assert np.isnan(json.loads(packed(parse(line_of(record(raw=raw)))))["context"]["position"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"capture": 2}, "capture: Input should be 1"),
        ({"timestamp": "x"}, "timestamp: "),
        ({"answer": {"scores": [], "unknown_ads": 0}}, "answer.history: Field required"),
        ({"body": None}, "body_base64: not a msgpack body"),
        (
            {"body": None, "body_base64": base64.b64encode(b"\x01").decode()},
            "body_base64: not a msgpack body",
        ),
    ],
    ids=["another format", "mistyped", "lacks a field", "no body", "no msgpack body"],
)
def test_something_else_is_refused(record, change, words):
    line = json.dumps({**json.loads(line_of(record())), **change}).encode()
    with pytest.raises(CaptureError, match=words):
        parse(line)


def test_what_is_no_json_is_refused():
    with pytest.raises(CaptureError, match="Invalid JSON"):
        parse(b"user_id,ad_id\n")
