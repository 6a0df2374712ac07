"""Captured requests against a service whose answers the test chooses."""

import json

import msgpack
import numpy as np
import pytest

from cli import asking
from cli.main import run
from service.capture.lines import Record, line_of
from tests.cli.conftest import LOGITS, Recorder, answer_of


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(asking, "RETRY_WAIT_S", 0.0)


def captured(request_id, *, at=1000.0, ads=None, timestamp=2000, **other):
    """A line for one of the requests of `LOGITS`, as `answer_of` answers it."""
    logit = np.array(LOGITS[request_id])
    ads = ads or [f"a{index}" for index in range(len(logit))]
    usual = {
        "why": "sample",
        "model": "tin",
        "version": "v1",
        "slot": "champion",
        "content_type": b"application/json",
        "raw": json.dumps({"user_id": 7, "request_id": request_id, "candidates": ads}).encode(),
        "scores": 1 / (1 + np.exp(-logit)),
        "history_status": "hit",
        "history_length": 1,
        "newest_age_s": 60,
        "unknown_ads": 0,
        "stage_s": {"parse": 0.0001, "infer": 0.002},
        "seconds": 0.003,
    }
    return line_of(Record(at=at, request_id=request_id, timestamp=timestamp, **{**usual, **other}))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "capture.jsonl"
    path.write_bytes(b"".join(captured(name, at=1000.0 + at) for at, name in enumerate(LOGITS)))
    return path


def replay(url, *files, more=()):
    return run(["replay-capture", *map(str, files), "--url", url, "--json", *more])


def result_of(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_equal_scores_pass_and_everything_is_told(file, service: Recorder, capsys):
    service.answer = answer_of(LOGITS, error=2e-5)
    assert replay(service.url, file) == 0
    result = result_of(capsys)
    assert result["ok"]
    assert (result["requests"], result["compared"], result["not_compared"]) == (3, 6, {})
    assert result["why"] == {"sample": 3}
    assert 1e-5 < result["difference"]["max"] < 3e-5
    assert set(result["milliseconds"]) == {"parse", "infer", "total"}
    assert result["milliseconds"]["infer"]["captured"] == {"p50": 2.0, "p95": 2.0, "p99": 2.0}
    assert result["round_trip"]["p50"] > 0


def test_requests_are_sent_as_they_came_at_the_time_that_was_used(file, service: Recorder):
    service.answer = answer_of(LOGITS)
    assert replay(service.url, file) == 0
    assert [body["request_id"] for body in service.asked] == list(LOGITS)
    assert service.asked[0] == {
        "user_id": 7,
        "request_id": "r1",
        "candidates": ["a0", "a1"],
        "timestamp": 2000,
    }


def test_a_score_that_is_another_now_is_a_difference_and_named(file, service: Recorder, capsys):
    service.answer = answer_of({**LOGITS, "r2": [2.5, 3.5003, 4.5]})
    assert replay(service.url, file) == 1
    out = capsys.readouterr()
    result = json.loads(out.out.splitlines()[-1])
    assert (result["ok"], result["beyond_tolerance"]) == (False, 1)
    assert result["worst"] == {
        "request": "r2",
        "ad_id": "a1",
        "captured": pytest.approx(3.5),
        "replayed": pytest.approx(3.5003),
    }
    assert out.err.splitlines()[-1].startswith("error: log-odds differ by up to 0.0003 ")


def test_another_version_is_counted_apart_unless_it_is_meant(tmp_path, service: Recorder, capsys):
    path = tmp_path / "two.jsonl"
    path.write_bytes(captured("r1") + captured("r2", version="v0"))
    service.answer = answer_of({**LOGITS, "r2": [9.0, 9.0, 9.0]})
    assert replay(service.url, path) == 0
    assert result_of(capsys)["not_compared"] == {"another version": 1}
    assert replay(service.url, path, more=["--any-version"]) == 1
    assert result_of(capsys)["not_compared"] == {}


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"history_length": 2}, "another history"),
        ({"newest_age_s": 61}, "another history"),
        (
            {"history_status": "timeout", "history_length": 0, "newest_age_s": None},
            "captured without history",
        ),
        ({"unknown_ads": 1}, "other ads unknown"),
    ],
)
def test_what_rests_on_something_else_is_counted_apart(tmp_path, service: Recorder, capsys, other, reason):
    path = tmp_path / "two.jsonl"
    path.write_bytes(captured("r1") + captured("r2", **other))
    service.answer = answer_of({**LOGITS, "r2": [9.0, 9.0, 9.0]})
    assert replay(service.url, path) == 0
    result = result_of(capsys)
    assert (result["not_compared"], result["compared"]) == ({reason: 1}, 2)


def test_answers_without_history_are_asked_again_then_counted_apart(file, service: Recorder, capsys):
    late, good = answer_of(LOGITS, status="timeout"), answer_of(LOGITS)
    service.answer = lambda body: (late if body["request_id"] == "r1" else good)(body)
    assert replay(service.url, file) == 0
    result = result_of(capsys)
    assert (result["not_compared"], result["retries"]) == ({"without history": 1}, 3)


def test_nothing_comparable_is_a_failure(file, service: Recorder, capsys):
    service.answer = answer_of(LOGITS, status="unavailable")
    assert replay(service.url, file) == 1
    assert "none of 3 requests could be compared" in capsys.readouterr().err


def test_a_refusal_fails_the_replay_but_does_not_end_it(file, service: Recorder, capsys):
    good = answer_of(LOGITS)
    wrong = (422, {"title": "Invalid request", "detail": "context.hour: unknown"})
    service.answer = lambda body: wrong if body["request_id"] == "r1" else good(body)
    assert replay(service.url, file) == 1
    out = capsys.readouterr()
    result = json.loads(out.out.splitlines()[-1])
    assert (result["refused"], result["compared"], result["requests"]) == ({"422": 1}, 4, 3)
    assert "context.hour: unknown" in out.err.splitlines()[-1]


def test_rotated_files_and_those_of_other_workers_are_one_capture_in_order_of_time(
    tmp_path, service: Recorder, capsys
):
    folder = tmp_path / "captured"
    folder.mkdir()
    (folder / "c.jsonl.1").write_bytes(captured("r2", at=1.0))
    (folder / "c.jsonl").write_bytes(captured("r1", at=3.0))
    (folder / "c-2.jsonl").write_bytes(captured("7@2200", at=2.0))
    (folder / ".c.jsonl.lock").write_bytes(b"")
    (folder / "notes.txt").write_text("no capture")
    service.answer = answer_of(LOGITS)
    assert replay(service.url, folder, folder / "c.jsonl") == 0
    assert [body["request_id"] for body in service.asked] == ["r2", "7@2200", "r1"]


@pytest.mark.parametrize(("limit", "expected"), [("1", ["r1"]), ("2", ["r1", "7@2200"]), ("9", list(LOGITS))])
def test_limit_takes_that_many_requests_from_start_to_end(file, service: Recorder, limit, expected):
    service.answer = answer_of(LOGITS)
    assert replay(service.url, file, more=["--limit", limit]) == 0
    assert [body["request_id"] for body in service.asked] == expected


def test_a_last_line_that_was_cut_is_told_and_left_out(file, service: Recorder, capsys):
    file.write_bytes(file.read_bytes()[:-20])
    service.answer = answer_of(LOGITS)
    assert replay(service.url, file) == 0
    out = capsys.readouterr()
    assert f"{file}: the last line is cut off and left out" in out.err
    result = json.loads(out.out.splitlines()[-1])
    assert (result["requests"], result["cut"]) == (2, [str(file)])


def test_columns_and_objects_name_the_worst_ad(tmp_path, service: Recorder, capsys):
    path = tmp_path / "c.jsonl"
    for candidates in ({"ad_id": ["x", "y"]}, [{"ad_id": "x"}, {"ad_id": "y"}]):
        body = {"user_id": None, "request_id": "r1", "candidates": candidates}
        path.write_bytes(captured("r1", raw=json.dumps(body).encode()))
        service.answer = answer_of({"r1": [0.5, 1.8]})
        assert replay(service.url, path) == 1
        assert result_of(capsys)["worst"]["ad_id"] == "y"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"user_id,ad_id\n1,2\n", "line 1 is no captured request (Invalid JSON"),
        (b'{"a": 1}\n', "line 1 is no captured request (capture: Field required)"),
        (captured("r1") + b"\n" + captured("r2"), "line 2 is no captured request"),
        (b"", "no captured request in there"),
    ],
    ids=["a table", "other JSON", "a torn line", "empty"],
)
def test_a_file_of_something_else_is_wrong_input_and_nothing_is_sent(
    tmp_path, service: Recorder, capsys, content, words
):
    path = tmp_path / "c.jsonl"
    path.write_bytes(content)
    assert replay(service.url, path) == 2
    assert service.asked == []
    line = capsys.readouterr().err.splitlines()[-1]
    assert str(path) in line
    assert words in line


def test_a_place_without_captures_is_wrong_input(tmp_path, capsys):
    for wrong, words in ((tmp_path, "no file of captured requests"), (tmp_path / "no", "can't be read")):
        assert replay("http://127.0.0.1:9", wrong) == 2
        assert words in capsys.readouterr().err


def test_a_wrong_url_is_wrong_input_and_nobody_there_a_failure(file, capsys):
    assert replay("127.0.0.1:8000", file) == 2
    assert replay("http://127.0.0.1:1", file) == 1
    assert "no service answers" in capsys.readouterr().err


def test_a_person_gets_a_table(file, service: Recorder, capsys):
    service.answer = answer_of(LOGITS)
    assert run(["replay-capture", str(file), "--url", service.url]) == 0
    assert "infer: captured p50 2" in capsys.readouterr().out


def test_msgpack_is_sent_as_msgpack(tmp_path, service: Recorder, capsys):
    raw = msgpack.packb({"user_id": 7, "request_id": "r1", "candidates": ["a", "b"]})
    path = tmp_path / "c.jsonl"
    path.write_bytes(captured("r1", raw=raw, content_type=b"application/msgpack"))
    service.answer = answer_of(LOGITS)
    assert replay(service.url, path) == 0
    assert service.asked[0]["timestamp"] == 2000


def test_a_folder_that_may_not_be_read_is_refused_in_one_line(tmp_path, monkeypatch):
    from cli.captured import CaptureError, open_captures

    def refuse(_self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "iterdir", refuse)  # root may read everything
    with pytest.raises(CaptureError, match="can't be read: Permission denied"), open_captures([tmp_path]):
        pass
