"""Several workers on one listening socket, watched by their parent.

Every worker holds the read end of a pipe from the parent as its standard input: when the parent dies, however it dies,
the pipe closes and the workers end. A worker that dies is replaced; one that can't start ends the whole service,
unless others serve.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from contract.errors import InputError, LongsightError
from service.errors import StartError
from service.settings import Settings
from service.wiring.accepting import forget_share
from service.wiring.exchange import forget_worker

METRICS_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
POLL_S: Final = 0.05
RESTART_S: Final = (0.5, 30.0)  # first and longest pause before a dead worker is replaced

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def metrics_folder(exchange: Path) -> Iterator[None]:
    """Give the workers an empty folder for their metrics, through the environment they will inherit.

    Args:
        exchange: the folder of the service's processes; theirs is in it, unless the environment names one.

    """
    given = os.environ.get(METRICS_FOLDER)
    folder = Path(given) if given else exchange / "metrics"
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.glob("*.db"):
        left_over.unlink()
    os.environ[METRICS_FOLDER] = str(folder)
    try:
        yield
    finally:
        if not given:
            del os.environ[METRICS_FOLDER]


def supervise(settings: Settings, listener: socket.socket, exchange: Path) -> None:
    """Run the workers until SIGTERM or Ctrl-C, then wait until all have drained.

    Args:
        settings: of the service.
        listener: listens already.
        exchange: the folder in which the workers agree on their slots.

    Raises:
        LongsightError: a worker could not start; the others were ended.

    """
    supervisor = _Supervisor(settings, listener, exchange)
    previous = {
        number: signal.signal(number, supervisor.on_signal) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        supervisor.run()
    finally:
        supervisor.kill()
        for number, handler in previous.items():
            signal.signal(number, handler)


@dataclass(slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    status: int
    ready: bool = False
    opened: bool = False
    failure: dict[str, Any] | None = None

    def tell(self, *lines: bytes) -> None:
        """Write to its standard input; one that is dead is found out elsewhere."""
        assert self.process.stdin is not None, "asked for a pipe"
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(b"".join(line + b"\n" for line in lines))
            self.process.stdin.flush()


class _Supervisor:
    def __init__(self, settings: Settings, listener: socket.socket, exchange: Path) -> None:
        self._settings = settings
        self._exchange = exchange
        self._listener = listener
        self._children: list[_Child] = []
        self._signals: list[int] = []
        self._ending = False
        self._complete = False  # all workers have been ready once
        self._pause_s = RESTART_S[0]
        self._replace_at_s = 0.0

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    def run(self) -> None:
        wanted = self._settings.server.workers
        self._children = [self._spawn() for _ in range(wanted)]
        while self._children or not self._ending:
            self._forward_signals()
            for child in list(self._children):
                _read_status(child)
                if child.process.poll() is not None:
                    self._bury(child)
            self._open_the_ready()
            missing = wanted - len(self._children)
            if missing and not self._ending and time.monotonic() >= self._replace_at_s:
                self._children.append(self._spawn())
            time.sleep(POLL_S)

    def _open_the_ready(self) -> None:
        """Let workers answer: the first ones all at once, replacements as they come."""
        if not self._complete and all(child.ready for child in self._children):
            self._complete = True
            logger.info("all %d workers are ready", len(self._children))
        if self._complete:
            for child in self._children:
                if child.ready and not child.opened:
                    child.tell(b"")
                    child.opened = True

    def kill(self) -> None:
        """End what still runs; only after an error."""
        for child in self._children:
            child.process.terminate()
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(self._settings.server.drain_timeout_s)
            child.process.kill()
            child.process.wait()

    def _spawn(self) -> _Child:
        reading, writing = os.pipe()
        command = [sys.executable, "-m", "service.wiring.child", str(self._listener.fileno()), str(writing)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            pass_fds=(self._listener.fileno(), writing),
            start_new_session=True,  # Ctrl-C reaches us alone, and we pass it on
        )
        os.close(writing)
        os.set_blocking(reading, False)
        child = _Child(process, reading)
        orders = (
            self._settings.model_dump_json(),
            json.dumps(self._complete),
            json.dumps(str(self._exchange)),
        )
        child.tell(*(line.encode() for line in orders))
        return child

    def _forward_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            self._ending = True
            for child in self._children:
                child.process.send_signal(number)

    def _bury(self, child: _Child) -> None:
        self._children.remove(child)
        _read_status(child)
        os.close(child.status)
        if child.process.stdin is not None:
            child.process.stdin.close()
        _forget_live_metrics(child.process.pid)
        forget_worker(self._exchange, child.process.pid)
        forget_share(self._exchange, child.process.pid)
        if self._ending:
            return
        if child.ready:
            self._pause_s = RESTART_S[0]
        elif not self._complete or (child.failure and not any(other.ready for other in self._children)):
            raise _failure(child)
        logger.error(
            "worker %d ended with %d and is replaced in %g s%s",
            child.process.pid,
            child.process.returncode,
            self._pause_s,
            f": {child.failure['error']}" if child.failure else "",
        )
        self._replace_at_s = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, RESTART_S[1])


def _read_status(child: _Child) -> None:
    with contextlib.suppress(BlockingIOError):
        for line in os.read(child.status, 65_536).splitlines():
            content = json.loads(line)
            if content.get("ready"):
                child.ready = True
            else:
                child.failure = content


def _failure(child: _Child) -> LongsightError:
    """Return the error a worker reported, in its own words."""
    if child.failure is None:
        return StartError(f"a worker ended with {child.process.returncode} before it was ready")
    kind = InputError if child.failure["code"] == InputError.exit_code else StartError
    return kind(child.failure["error"])


def _forget_live_metrics(pid: int) -> None:
    """Remove the gauges of a dead worker, which would be added to those of the living."""
    for file in Path(os.environ[METRICS_FOLDER]).glob(f"gauge_live*_{pid}.db"):
        file.unlink(missing_ok=True)
