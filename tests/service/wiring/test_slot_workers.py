"""Slots are the same in every worker, whichever stops, dies or comes while they change."""

import http.client
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.slots import (
    VERSIONS,
    answered_by,
    change,
    open_files,
)
from tests.support.workers import alive, pids, until, workers_of


def test_one_change_at_a_time(serving):
    with serving("--workers", "2") as started, ThreadPoolExecutor() as pool:
        started.wait()
        held_up = workers_of(started)[0]
        held_up.suspend()
        first = pool.submit(change, started, "champion", "b")
        until(lambda: "lock" in open_files(started))
        answer = change(started, "champion", "c")
        assert (answer.status, answer.json["type"]) == (409, "urn:longsight:slot-conflict")
        held_up.resume()
        assert first.result(40).status == 200
        assert {answered_by(started) for _ in range(20)} == {VERSIONS["b"]}


def test_a_worker_that_hangs_ends_the_change_in_time_and_nothing_has_changed(serving):
    with serving("--workers", "2", LONGSIGHT_MODELS__SWITCH_TIMEOUT_S="1.5") as started:
        started.wait()
        hanging = workers_of(started)[0]
        hanging.suspend()
        answer = change(started, "champion", "b")
        hanging.resume()
        assert (answer.status, answer.json["type"]) == (503, "urn:longsight:slots-not-changed")
        assert str(hanging.pid) in answer.json["detail"]
        assert {answered_by(started) for _ in range(20)} == {VERSIONS["a"]}
        assert change(started, "champion", "b").status == 200
        assert {answered_by(started) for _ in range(20)} == {VERSIONS["b"]}


def test_a_worker_that_dies_while_it_prepares_ends_the_change(serving):
    with serving("--workers", "2") as started, ThreadPoolExecutor() as pool:
        started.wait()
        dying = workers_of(started)[0]
        dying.suspend()
        waiting = pool.submit(change, started, "champion", "b")
        until(lambda: "lock" in open_files(started))
        dying.kill()
        answer = waiting.result(40)
        assert answer.status == 503
        assert f"worker {dying.pid} ended" in answer.json["detail"]
        until(lambda: len(alive(workers_of(started))) == 2 and dying.pid not in pids(workers_of(started)))
        assert {answered_by(started) for _ in range(20)} == {VERSIONS["a"]}


def test_a_leader_that_dies_takes_its_proposal_with_it(serving):
    with serving("--workers", "2") as started, ThreadPoolExecutor() as pool:
        started.wait()
        other = workers_of(started)[0]
        other.suspend()
        waiting = pool.submit(change, started, "champion", "b")
        until(lambda: "lock" in open_files(started))
        (leader,) = [worker for worker in workers_of(started) if worker.pid != other.pid]
        leader.kill()
        with pytest.raises((http.client.HTTPException, OSError)):
            waiting.result(40)
        other.resume()
        assert answered_by(started) == VERSIONS["a"]
        until(lambda: started.output().count("INFO service.wiring.worker: ready") == 3)
        assert change(started, "champion", "b").status == 200
        assert {answered_by(started) for _ in range(20)} == {VERSIONS["b"]}


def test_a_worker_that_replaces_a_dead_one_serves_what_the_others_do(serving):
    with serving("--workers", "2") as started:
        started.wait()
        assert change(started, "champion", "b").status == 200
        assert change(started, "challenger", "c", share=1).status == 200
        victim = workers_of(started)[0]
        victim.kill()
        until(lambda: started.output().count("INFO service.wiring.worker: ready") == 3)
        for worker in workers_of(started):
            worker.suspend()
            assert answered_by(started) == VERSIONS["c"]
            assert answered_by(started, model="champion") == VERSIONS["b"]
            worker.resume()
