"""Real servers: the embedded Valkey, and Debian's redis-server where it is installed."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.history.embedded import embedded_server

REDIS_SERVER = shutil.which("redis-server")
BINARIES = [
    pytest.param(None, id="valkey"),
    pytest.param(
        REDIS_SERVER,
        id="redis",
        marks=pytest.mark.skipif(not (REDIS_SERVER or os.environ.get("CI")), reason="no redis-server here"),
    ),
]


class Server:
    """A store of one test: started, emptied, broken and started again by it."""

    def __init__(self, folder: Path, binary: str | None = None) -> None:
        self.folder = folder
        self._binary = Path(binary) if binary else None
        self._stack = contextlib.ExitStack()
        self.url = ""
        self.start()

    def start(self) -> None:
        self.url = self._stack.enter_context(embedded_server(self.folder, binary=self._binary))
        self.client = client_of(self.url)
        self._process_id = self.client.info("server")["process_id"]

    def stop(self) -> None:
        self.client.close()
        self._stack.close()

    def kill(self) -> None:
        """End the server the hard way."""
        os.kill(self._process_id, signal.SIGKILL)
        self.stop()


@pytest.fixture(scope="session", params=BINARIES)
def shared_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("store"), request.param)
    yield server
    server.stop()


@pytest.fixture
def server(shared_server: Server) -> Server:
    """An empty store of either kind."""
    shared_server.client.flushall()
    return shared_server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A store that the test may break."""
    server = Server(tmp_path / "own")
    yield server
    server.stop()


def client_of(url: str) -> redis.Redis:
    """A client that says at once what is wrong."""
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0))


def until(condition: Callable[[], bool], *, timeout_s: float = 5.0) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
