import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from benchmarks.support.open_loop import OpenLoop, one_by_one
from benchmarks.support.serving_bars import LINES, bars_of
from benchmarks.support.serving_graphs import row_per_candidate
from benchmarks.support.serving_soak import theil_sen
from benchmarks.support.serving_trace import ideal_response_s, poisson


class _Echo(BaseHTTPRequestHandler):
    """Answers 429 to bodies that say so, else 200."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(429 if body == b"refuse" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture(name="url", scope="module")
def _url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/score"
    server.shutdown()
    thread.join()
    server.server_close()


def test_two_ideal_servers_take_requests_in_turn():
    due_s = np.array([0.0, 0.0, 0.0, 10.0])
    service_s = np.array([2.0, 3.0, 4.0, 1.0])
    assert ideal_response_s(due_s, service_s).tolist() == [2.0, 3.0, 6.0, 1.0]


def test_one_ideal_server_never_works_while_it_could():
    trace = poisson(50.0, seconds=20, seed=3)
    response_s = ideal_response_s(trace.due_s, np.full(len(trace.due_s), 0.01), servers=1)
    ended_s = trace.due_s + response_s
    assert (np.diff(ended_s) >= 0.01 - 1e-9).all()
    assert (response_s >= 0.01 - 1e-9).all()


def test_a_trace_has_the_rate_that_was_asked_for():
    trace = poisson(200.0, seconds=50, seed=0)
    assert len(trace.due_s) / trace.due_s[-1] == pytest.approx(200, rel=0.05)


def test_an_open_loop_records_the_answer_of_each_request(url):
    bodies = [b"refuse" if index % 3 == 0 else b"score" for index in range(60)]
    seen = OpenLoop(url, due_s=np.arange(60) * 1e-3, bodies=bodies).run()
    assert seen.status.tolist() == [429 if index % 3 == 0 else 200 for index in range(60)]
    assert (seen.sent_s >= seen.due_s - 1e-6).all()
    assert (seen.response_s >= seen.answer_s - 1e-6).all()


def test_asking_one_by_one_stops_at_a_refusal(url):
    assert (one_by_one(url, [b"a", b"b"], passes=2) > 0).all()
    with pytest.raises(SystemExit, match="429"):
        one_by_one(url, [b"refuse"], passes=1)


def test_a_jump_of_memory_is_no_slope():
    x = np.arange(100.0)
    assert theil_sen(x, np.where(x < 5, 90.0, 100.0)) == 0
    assert theil_sen(x, 100 + 0.5 * x) == pytest.approx(0.5)


def test_a_row_per_candidate_repeats_the_history():
    rows = row_per_candidate({"history_item": np.arange(5)[None], "ad_item": np.arange(100)[None]})
    assert rows["history_item"].shape == (100, 5)
    assert rows["ad_item"][:, 0].tolist() == list(range(100))


def test_every_line_has_one_bar_also_when_nothing_was_measured():
    bars = bars_of({"mosec": {"error": "not installed"}})
    assert len(bars) == len(LINES) == 9
    assert not any(bar["ok"] or bar["value"] is not None for bar in bars)


def test_a_line_that_asks_for_two_things_is_held_to_the_worse():
    connections = {number: {"rate_ratio": 1.5, "p99_ratio": 1.25} for number in ("4", "16")}
    bar = bars_of({"mosec": {"connections": connections}})[0]
    assert bar["value"] == pytest.approx(0.8)
    assert not bar["ok"]
