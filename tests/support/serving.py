"""The real program as a process, with a real store: started, asked, signalled and ended by tests."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)


class Service:
    """`longsight serve` in a process of its own."""

    def __init__(self, bundle: Path, redis: str, *arguments: str, **environment: str) -> None:
        self.host, self.port = "127.0.0.1", free_port()
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        command = [
            sys.executable,
            "-m",
            "cli",
            "serve",
            str(bundle),
            "--redis",
            redis,
            "--port",
            str(self.port),
        ]
        self.process = subprocess.Popen(
            [*command, *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    def wait(self, *, status: int = 200, timeout_s: float = 40.0) -> "Service":
        """Wait until `/readyz` answers with a status."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            assert self.process.poll() is None, self.output()
            with contextlib.suppress(OSError):
                if self.get("/readyz").status == status:
                    return self
            time.sleep(0.02)
        raise AssertionError(f"/readyz never answered {status}: {self.output()}")

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def score(self, body: object, **headers: str) -> Answer:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask("POST", "/score", raw, {"Content-Type": "application/json", **headers})

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, **options: Any
    ) -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {}, **options)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())

    def metric(self, name: str, /, **labels: str) -> float:
        """Return the value of one series; 0 if it is not there."""
        for line in self.get("/metrics").data.decode().splitlines():
            series, _, value = line.rpartition(" ")
            found, _, rest = series.partition("{")
            if found == name and all(f'{label}="{text}"' in rest for label, text in labels.items()):
                return float(value)
        return 0.0

    def output(self) -> str:
        """Return what the program wrote."""
        # the processes write at the offset of the same open file, so it must not be moved
        size = os.fstat(self.log.fileno()).st_size
        return os.pread(self.log.fileno(), size, 0).decode()

    def end(self, number: int = signal.SIGTERM, timeout_s: float = 40.0) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()


@contextlib.contextmanager
def service(bundle: Path, redis: str, *arguments: str, **environment: str) -> Iterator[Service]:
    """Yield a service that was started, ready or not."""
    # tests end services by the dozen, and each would stay up for a second
    started = Service(bundle, redis, *arguments, **{"LONGSIGHT_SERVER__DRAIN_DELAY_S": "0", **environment})
    try:
        yield started
    finally:
        started.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def log_odds(scores: Any) -> np.ndarray:
    p = np.asarray(scores, dtype=np.float64)
    return np.log(p) - np.log1p(-p)
