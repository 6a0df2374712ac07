"""A real service that is asked for more than it can do, or by callers who do not stay for the answer."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.service.conftest import until
from tests.support.serving import service

LARGE = {"user_id": "5", "candidates": {"ad_id": [str(100 + ad % 40) for ad in range(5000)]}}
SMALL = {"user_id": "5", "candidates": ["101", "102"]}
CALLERS = 8


@pytest.fixture(scope="module")
def pressed(house):
    settings = {
        "LONGSIGHT_BATCHING__MAX_QUEUED_CANDIDATES": "100000",
        "LONGSIGHT_BATCHING__CHUNK_CANDIDATES": "100",
        "LONGSIGHT_RUNTIME__THREADS": "1",
    }
    with service(house.bundle, house.redis, **settings) as started:
        yield started.wait()


def refused(pressed, body):
    """Ask from all sides until somebody is told that a deadline is out of reach; returns all answers."""
    answers = []
    with ThreadPoolExecutor(CALLERS) as pool:
        for _ in range(60):
            answers += pool.map(pressed.score, [body] * CALLERS)
            if any(answer.json.get("type") == "urn:longsight:deadline-out-of-reach" for answer in answers):
                return answers
    raise AssertionError(f"nobody was refused: {[answer.status for answer in answers]}")


def test_a_deadline_that_is_out_of_reach_is_refused_with_the_reason(pressed):
    with ThreadPoolExecutor(1) as pool:
        alone_ms = max(
            sum(float(stage.split("dur=")[1]) for stage in answer.headers["server-timing"].split(", "))
            for answer in pool.map(pressed.score, [LARGE] * 12)
        )
    before = pressed.metric("longsight_shed_total", reason="out_of_reach")
    answers = refused(pressed, {**LARGE, "deadline_ms": 2 * alone_ms})
    assert {answer.status for answer in answers} <= {200, 429, 504}
    first = next(a for a in answers if a.json.get("type") == "urn:longsight:deadline-out-of-reach")
    assert first.status == 429
    assert int(first.headers["retry-after"]) >= 1
    assert "the answer is expected in" in first.json["detail"]
    assert "ms are left until the deadline" in first.json["detail"]
    told = sum(answer.json.get("type") == "urn:longsight:deadline-out-of-reach" for answer in answers)
    until(lambda: pressed.metric("longsight_shed_total", reason="out_of_reach") == before + told)
    until(lambda: pressed.metric("longsight_queue_candidates") == 0)


@pytest.mark.parametrize("more", [{}, {"deadline_ms": 10_000}], ids=["any time", "a deadline"])
def test_after_an_overload_the_first_request_is_answered(pressed, more):
    with ThreadPoolExecutor(4 * CALLERS) as pool:
        answers = list(pool.map(pressed.score, [{**LARGE, "deadline_ms": 5}] * 8 * CALLERS))
    assert {429, 504} & {answer.status for answer in answers}, "that was no overload"
    time.sleep(0.2)
    assert pressed.score({**SMALL, **more}).status == 200


def test_without_deadlines_everyone_waits_and_is_answered(pressed):
    with ThreadPoolExecutor(CALLERS) as pool:
        assert {answer.status for answer in pool.map(pressed.score, [LARGE] * 4 * CALLERS)} == {200}


def test_whoever_hangs_up_is_dropped_before_the_engine_and_hurts_nobody(pressed):
    raw = json.dumps(LARGE).encode()
    head = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"

    def left():
        return pressed.metric("longsight_shed_total", reason="caller_left")

    def ask_and_hang_up():
        """Wait until the others hold the engine, so that nobody is answered before they leave."""
        sockets = [socket.create_connection(("127.0.0.1", pressed.port)) for _ in range(2 * CALLERS)]
        for one in sockets:
            one.sendall(head % len(raw) + raw)
        for one in sockets[CALLERS:]:
            one.close()
        stayed = []
        for one in sockets[:CALLERS]:
            one.settimeout(20)
            stayed.append(one.recv(12))
            one.close()
        return stayed

    before = left()
    for _ in range(20):
        assert set(ask_and_hang_up()) == {b"HTTP/1.1 200"}
        if left() > before:
            break
    assert left() > before
    until(lambda: pressed.metric("longsight_queue_candidates") == 0)
    assert pressed.score(SMALL).status == 200
