"""A log of three requests small enough to read, its predictions, and a service that knows their log-odds."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import polars as pl
import pytest

SCHEMA = """
actions = ["click"]
[split]
validation_from = 1500
test_from = 2000
[vocabularies.item]
kind = "exact"
min_count = 1
oov_buckets = 2
[[behavior]]
name = "item_id"
type = "categorical"
vocabulary = "item"
[[ad]]
name = "ad_id"
type = "categorical"
vocabulary = "item"
matches = "item_id"
[[context]]
name = "hour"
type = "numeric"
default = 0.0
[[context]]
name = "slot"
type = "categorical"
vocabulary = "slot"
[vocabularies.slot]
kind = "hashed"
rows = 16
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Users 7 and 8; the second request shows ad `a` twice, in two slots; the last one has no id."""
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "schema.toml").write_text(SCHEMA)
    pl.DataFrame({"user_id": [7, 8], "timestamp": [100, 100], "item_id": ["a", "b"]}).write_parquet(
        folder / "behaviors.parquet"
    )
    pl.DataFrame({"ad_id": ["a", "b", "c"]}).write_parquet(folder / "ads.parquet")
    pl.DataFrame(
        {
            "user_id": [7, 7, 8, 8, 8, 7],
            "ad_id": ["a", "b", "a", "a", "c", "b"],
            "timestamp": [2000, 2000, 2100, 2100, 2100, 2200],
            "clicked": [1, 0, 0, 1, 0, 1],
            "request_id": ["r1", "r1", "r2", "r2", "r2", None],
            "hour": [18.0, 18.0, 9.0, 9.0, 9.0, None],
            "slot": ["top", "side", "top", "side", None, "top"],
        }
    ).write_parquet(folder / "impressions.parquet")
    return folder


@pytest.fixture
def predictions(log: Path, tmp_path: Path) -> Path:
    """Log-odds 0.5, 1.5, ... in the log's order."""
    frame = pl.read_parquet(log / "impressions.parquet")
    logit = pl.Series("logit", np.arange(frame.height) + 0.5, dtype=pl.Float32)
    path = tmp_path / "predictions.parquet"
    frame.select("user_id", "ad_id", "timestamp", "request_id", "clicked").with_columns(logit).write_parquet(
        path
    )
    return path


Answer = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]


@dataclass
class Recorder:
    """A running HTTP server: what it was asked, and how it answers."""

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    answer: Answer = lambda _body: (500, {})
    ready: dict[str, Any] = field(default_factory=lambda: {"ready": True})


@pytest.fixture
def service() -> Iterator[Recorder]:
    """A real socket whose answers the test chooses."""
    recorder = Recorder()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            packed = "msgpack" in self.headers["Content-Type"]
            body = msgpack.unpackb(raw) if packed else json.loads(raw)
            recorder.asked.append(body)
            self._answer(*recorder.answer(body))

        def do_GET(self) -> None:
            self._answer(200, recorder.ready)

        def _answer(self, status: int, answer: dict[str, Any]) -> None:
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    recorder.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield recorder
    server.shutdown()
    server.server_close()
    thread.join()


def answer_of(logits: dict[str, list[float]], *, error: float = 0.0, status: str = "hit") -> Answer:
    """Answer with the log-odds listed under each request's name, off by `error`."""

    def answer(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        logit = np.asarray(logits[body["request_id"]], dtype=np.float64) + error
        history = {"status": status, "length": 1, "newest_age_s": 60}
        scores = (1 / (1 + np.exp(-logit))).tolist()
        return 200, {"model": "tin", "version": "v1", "scores": scores, "history": history, "unknown_ads": 0}

    return answer


LOGITS = {"r1": [0.5, 1.5], "r2": [2.5, 3.5, 4.5], "7@2200": [5.5]}
