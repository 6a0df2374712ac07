import json
import socket
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cli import asking
from cli.differences import differences, log_odds
from cli.main import run
from tests.cli.conftest import LOGITS, Recorder, answer_of


def replay(log: Path, url: str, predictions: Path, *more: str) -> int:
    return run(["replay", str(log), "--url", url, "--predictions", str(predictions), "--json", *more])


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(asking, "RETRY_WAIT_S", 0.0)


def test_equal_scores_pass_and_are_counted(log, predictions, service: Recorder, capsys):
    service.answer = answer_of(LOGITS, error=2e-5)
    assert replay(log, service.url, predictions) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["ok"]
    assert (result["requests"], result["impressions"], result["compared"]) == (3, 6, 6)
    assert result["share_compared"] == 1
    assert 1e-5 < result["difference"]["max"] < 3e-5
    assert result["history"] == {"hit": 3}
    assert result["versions"] == {"tin v1": 3}


def test_context_is_sent_once_where_it_is_shared_and_per_candidate_where_not(
    log, predictions, service: Recorder
):
    service.answer = answer_of(LOGITS)
    replay(log, service.url, predictions)
    second = next(body for body in service.asked if body["request_id"] == "r2")
    assert second["user_id"] == 8
    assert second["timestamp"] == 2100
    assert second["context"] == {"hour": 9.0}
    assert second["candidates"] == {"ad_id": ["a", "a", "c"], "context": {"slot": ["top", "side", None]}}


def test_a_skewed_score_fails_and_is_named(log, predictions, service: Recorder, capsys):
    wrong = {**LOGITS, "r2": [2.5, 3.5003, 4.5]}
    service.answer = answer_of(wrong)
    assert replay(log, service.url, predictions) == 1
    captured = capsys.readouterr()
    result = json.loads(captured.out.splitlines()[-1])
    assert not result["ok"]
    assert result["worst"]["request"] == "r2"
    assert result["worst"]["ad_id"] == "a"
    assert result["worst"]["served"] == pytest.approx(3.5003)
    assert captured.err.splitlines()[-1].startswith("error: log-odds differ by up to 0.0003 ")


def replay_many(
    log: Path,
    service: Recorder,
    *,
    off: dict[int, float],
    picks: bool = False,
    said: dict[str, float] | None = None,
) -> int:
    """Replay 150 impressions, of which one is less than 1 %; `off` by so much at these places."""
    rows = pl.DataFrame(
        {
            "user_id": 7,
            "ad_id": [f"a{i}" for i in range(150)],
            "timestamp": np.full(150, 2000),
            "clicked": 0,
            "request_id": "r1",
            "hour": 18.0,
            "slot": "top",
        },
        schema_overrides={"user_id": pl.Int64, "clicked": pl.Int64},
    )
    rows.write_parquet(log / "impressions.parquet")
    logit = pl.Series("logit", np.linspace(-2, 2, 150), dtype=pl.Float32)
    path = log.parent / "many.parquet"
    rows.select("user_id", "ad_id", "timestamp", "request_id", "clicked").with_columns(logit).write_parquet(
        path
    )
    served = logit.to_numpy().astype(np.float64)
    for place, by in off.items():
        served[place] += by
    service.answer = answer_of({"r1": served.tolist()})
    service.ready = {
        "ready": True,
        "model": {"name": "m", "version": "v1", "hard_routing": picks, **(said or {})},
    }
    return replay(log, service.url, path)


def test_few_scores_of_a_model_that_picks_may_be_a_little_off(log, service: Recorder, capsys):
    assert replay_many(log, service, off={10: 0.04}, picks=True) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["hard_routing"], result["beyond_tolerance"], result["ok"]) == (True, 1, True)


@pytest.mark.parametrize(
    ("picks", "off"),
    [(False, {10: 0.04}), (True, {10: 0.01, 20: 0.01}), (True, {10: 0.06})],
    ids=["a model that picks nothing", "too many", "too far"],
)
def test_more_than_that_is_skew(log, service: Recorder, capsys, picks, off):
    assert replay_many(log, service, off=off, picks=picks) == 1
    captured = capsys.readouterr()
    result = json.loads(captured.out.splitlines()[-1])
    assert (result["hard_routing"], result["beyond_tolerance"], result["ok"]) == (picks, len(off), False)
    assert f"{len(off)} of 150 by more than 0.0001" in captured.err.splitlines()[-1]


ROUNDED = {"tolerance": 2e-3, "farthest": 3e-3}


def test_scores_of_a_bundle_of_reduced_precision_may_be_as_far_as_export_found(
    log, service: Recorder, capsys
):
    off = {10: 2.9e-3, **dict.fromkeys(range(20, 150), 1.9e-3)}
    assert replay_many(log, service, off=off, said=ROUNDED) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["tolerance"], result["farthest"], result["beyond_tolerance"]) == (2e-3, 3e-3, 1)
    assert replay_many(log, service, off=off, said={"tolerance": 1e-5, "farthest": 1e-5}) == 1


@pytest.mark.parametrize("off", [{10: 3.1e-3}, {10: 2.5e-3, 20: 2.5e-3}], ids=["too far", "too many"])
def test_and_no_farther(log, service: Recorder, capsys, off):
    assert replay_many(log, service, off=off, said=ROUNDED) == 1
    assert "(allowed 0.002, for 1% of the scores 0.003)" in capsys.readouterr().err.splitlines()[-1]


def test_answers_without_history_are_asked_again_then_counted_apart(
    log, predictions, service: Recorder, capsys
):
    late = answer_of({**LOGITS, "r1": [9.0, 9.0]}, status="timeout")
    good = answer_of(LOGITS)
    service.answer = lambda body: (late if body["request_id"] == "r1" else good)(body)
    assert replay(log, service.url, predictions) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["compared"], result["without_history"], result["retries"]) == (4, 2, 3)
    assert sum(body["request_id"] == "r1" for body in service.asked) == 4


def test_nothing_comparable_is_a_failure(log, predictions, service: Recorder, capsys):
    service.answer = answer_of(LOGITS, status="unavailable")
    assert replay(log, service.url, predictions) == 1
    assert "none of 6 impressions could be compared" in capsys.readouterr().err


def test_a_busy_service_is_asked_again(log, predictions, service: Recorder, capsys):
    good, seen = answer_of(LOGITS), set()

    def busy_once(body):
        if body["request_id"] in seen:
            return good(body)
        seen.add(body["request_id"])
        return 429, {"title": "Too many"}

    service.answer = busy_once
    assert replay(log, service.url, predictions) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["retries"] == 3


def test_a_refusal_ends_the_replay_in_the_services_words(log, predictions, service: Recorder, capsys):
    service.answer = lambda _body: (422, {"title": "Invalid request", "detail": "context.hour: unknown"})
    assert replay(log, service.url, predictions) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].endswith("answered 422: Invalid request: context.hour: unknown")
    assert "r1" in captured.err


def test_limit_takes_that_many_requests_from_start_to_end(log, predictions, service: Recorder, capsys):
    service.answer = answer_of(LOGITS)
    assert replay(log, service.url, predictions, "--limit", "2") == 0
    assert {body["request_id"] for body in service.asked} == {"r1", "7@2200"}
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["requests"] == 2


def test_predictions_of_a_part_of_the_log_are_enough(log, predictions, service: Recorder):
    pl.read_parquet(predictions).tail(4).write_parquet(predictions)
    service.answer = answer_of(LOGITS)
    assert replay(log, service.url, predictions) == 0
    assert {body["request_id"] for body in service.asked} == {"r2", "7@2200"}


def test_nobody_at_the_url_is_one_line(log, predictions, capsys):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        assert replay(log, url, predictions) == 1
    assert "no service answers" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://host:port", "http://", "http://["])
def test_a_wrong_url_is_wrong_input(log, predictions, url, capsys):
    assert replay(log, url, predictions) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(lambda frame: frame.drop("logit"), "no column 'logit'", id="column missing"),
        pytest.param(
            lambda frame: frame.with_columns(pl.lit("a").alias("logit")),
            "must hold finite numbers",
            id="text",
        ),
        pytest.param(
            lambda frame: frame.with_columns(pl.lit(float("nan")).alias("logit")), "finite numbers", id="nan"
        ),
        pytest.param(
            lambda frame: frame.with_columns(pl.col("user_id").cast(pl.String)),
            "in the log it is Int64",
            id="types",
        ),
        pytest.param(
            lambda frame: frame.with_columns(pl.col("timestamp") + 1),
            "row 0 (user 7, ad a, time 2001)",
            id="stray",
        ),
    ],
)
def test_predictions_of_something_else_are_refused(log, predictions, change, words, capsys):
    change(pl.read_parquet(predictions)).write_parquet(predictions)
    assert replay(log, "http://127.0.0.1:9", predictions) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {predictions}: ")
    assert words in line


def test_predictions_that_are_no_parquet_are_refused(log, predictions, capsys):
    predictions.write_text("no")
    assert replay(log, "http://127.0.0.1:9", predictions) == 2
    assert "not readable as Parquet" in capsys.readouterr().err


def test_probabilities_that_round_to_one_are_equal_if_the_offline_one_rounds_too():
    offline = np.array([40.0, 40.0, 1.0])
    served = log_odds(np.array([1.0, 0.5, 1.0]))
    assert differences(served, offline).tolist() == [0.0, 40.0, np.inf]
