"""Under load: draining, losing the store, losing a worker, losing the parent."""

import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.history.load import load as load_log
from tests.support.serving import log_odds, service
from tests.support.tiny import tiny_log
from tests.support.workers import alive, pids, until, workers_of

BODY = {"user_id": "5", "candidates": [str(100 + index) for index in range(25)], "timestamp": 1_508_000_000}


class Load:
    """Callers on kept-alive connections who ask again and again, and what they got."""

    def __init__(self, started, callers=4):
        self.statuses = Counter()
        self.history = Counter()
        self.asked_to_close = 0
        self._port = started.port
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(callers)
        self._futures = [self._pool.submit(self._ask) for _ in range(callers)]

    def _ask(self):
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        while not self._over.is_set():
            connection.request("POST", "/score", json.dumps(BODY))
            answer = connection.getresponse()
            content = json.loads(answer.read())
            self.statuses[answer.status] += 1
            if answer.status == 200:
                self.history[content["history"]["status"]] += 1
            if answer.getheader("connection") == "close":
                self.asked_to_close += 1
                break
        connection.close()

    def end(self):
        self._over.set()
        for future in self._futures:
            future.result(30)
        self._pool.shutdown()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_lets_running_requests_finish_and_exits_0(house, own_server, tmp_path, number, workers):
    load_log(tiny_log(tmp_path), redis_url=own_server.url)
    with service(
        house.bundle, own_server.url, "--workers", workers, LONGSIGHT_REDIS__READ_TIMEOUT_S="5"
    ) as started:
        started.wait()
        own_server.client.client_pause(700)  # every request now takes so long
        with ThreadPoolExecutor(8) as pool:
            running = [pool.submit(started.score, BODY) for _ in range(8)]
            time.sleep(0.3)
            assert not any(one.done() for one in running)
            assert started.end(number) == 0
            assert [one.result().status for one in running] == [200] * 8
        assert "Traceback" not in started.output()
        assert "Fatal" not in started.output()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_callers_under_load_are_sent_away_without_losing_a_request(house, workers):
    with service(
        house.bundle, house.redis, "--workers", workers, LONGSIGHT_SERVER__DRAIN_DELAY_S="0.5"
    ) as started:
        started.wait()
        load = Load(started)
        until(lambda: load.statuses[200] > 100)
        assert started.end() == 0
        load.end()
        assert set(load.statuses) == {200}
        assert load.asked_to_close == 4


def test_between_sigterm_and_closing_it_is_not_ready_but_answers(house):
    with service(house.bundle, house.redis, LONGSIGHT_SERVER__DRAIN_DELAY_S="1.5") as started:
        started.wait()
        started.process.send_signal(signal.SIGTERM)
        until(lambda: started.get("/readyz").status == 503)
        assert started.get("/readyz").json["reason"] == "shutting down"
        assert started.get("/livez").status == 200
        assert started.score(BODY).status == 200
        assert started.process.wait(20) == 0


def test_a_second_signal_cuts_the_delay_short(house):
    with service(house.bundle, house.redis, LONGSIGHT_SERVER__DRAIN_DELAY_S="60") as started:
        started.wait()
        started.process.send_signal(signal.SIGTERM)
        until(lambda: started.get("/readyz").status == 503)
        assert started.end(signal.SIGTERM, timeout_s=10) == 0


def test_a_store_killed_under_load_degrades_answers_and_comes_back(house, own_server, tmp_path):
    load_log(tiny_log(tmp_path), redis_url=own_server.url)
    with service(house.bundle, own_server.url) as started:
        started.wait()
        whole = started.score(BODY).json
        load = Load(started)
        until(lambda: load.history["hit"] > 50)
        own_server.kill()
        until(lambda: load.history["unavailable"] > 50)
        assert started.get("/readyz").status == 200
        assert started.metric("longsight_redis_up") == 0
        own_server.start()
        hits = load.history["hit"]
        until(lambda: load.history["hit"] > hits + 50)
        load.end()
        assert set(load.statuses) == {200}
        assert started.score(BODY).json["scores"] == whole["scores"]


def test_a_flood_is_refused_whole_and_the_rest_is_answered(house):
    settings = {"LONGSIGHT_BATCHING__MAX_QUEUED_CANDIDATES": "60", "LONGSIGHT_SERVER__MAX_CANDIDATES": "50"}
    with service(house.bundle, house.redis, **settings) as started:
        started.wait()
        load = Load(started, callers=12)
        until(lambda: load.statuses[200] > 100 and load.statuses[429] > 0)
        load.end()
        assert set(load.statuses) == {200, 429}
        assert started.metric("longsight_shed_total", reason="queue_full") == load.statuses[429]
        assert started.metric("longsight_queue_candidates") == 0


def test_two_workers_answer_alike_and_are_counted_together(house):
    with service(house.bundle, house.redis) as alone:
        alone.wait()
        expected = log_odds(alone.score(BODY).json["scores"])
        version = alone.score(BODY).json["version"]
    with service(house.bundle, house.redis, "--workers", "2") as started:
        started.wait()
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(started.score, [BODY] * 200))
        for answer in answers:
            np.testing.assert_allclose(log_odds(answer.json["scores"]), expected, atol=1e-5)
        until(lambda: started.metric("longsight_requests_total", route="/score", code="200") == 200)
        assert started.metric("longsight_score_count") == 200 * len(BODY["candidates"])
        assert started.metric("longsight_model_info", version=version) == 1
        assert started.metric("longsight_redis_up") == 1
        assert started.end() == 0


def test_a_worker_that_dies_is_replaced(house):
    with service(house.bundle, house.redis, "--workers", "2") as started:
        started.wait()
        victim = workers_of(started)[0]
        victim.kill()
        until(lambda: len(alive(workers_of(started))) == 2 and victim.pid not in pids(workers_of(started)))
        until(lambda: started.output().count("INFO service.wiring.worker: ready") == 3)
        assert started.score(BODY).status == 200
        assert started.end() == 0


def test_workers_end_when_their_parent_is_killed(house):
    with service(house.bundle, house.redis, "--workers", "2") as started:
        started.wait()
        workers = workers_of(started)
        os.kill(started.process.pid, signal.SIGKILL)
        started.process.wait()
        until(lambda: not alive(workers))
