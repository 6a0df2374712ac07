"""Open-loop load: every request has its moment, whatever became of those before it, and is timed from that moment.

Two threads: one sleeps until the next moment and sends on an idle kept-alive connection (or a new one), the other
takes the answers. An event loop would not do: its timers count whole milliseconds, and answers take no more.
"""

import contextlib
import gc
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

CONNECTIONS: Final = 32
"""Opened beforehand; more are opened as they are needed."""
PRIORITY: Final = -10
"""Of the generator, where that is allowed: what it sends late is the generator's fault, not the service's."""
LAST_ANSWER_S: Final = 10.0


@dataclass
class Seen:
    """What became of each request; `[requests]`.

    Attributes:
        due_s: its moment, from the start of the trace.
        sent_s, done_s: when it was sent and answered; NaN if it was not.
        status: of the answer; 0 without one.

    """

    due_s: NDArray[np.float64]
    sent_s: NDArray[np.float64]
    done_s: NDArray[np.float64]
    status: NDArray[np.int64]

    @property
    def response_s(self) -> NDArray[np.float64]:
        """From the moment to the answer."""
        return self.done_s - self.due_s

    @property
    def answer_s(self) -> NDArray[np.float64]:
        """From the sending to the answer."""
        return self.done_s - self.sent_s


class _Connection:
    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = -1
        self.received = b""

    def answer(self) -> tuple[int, bytes] | None:
        """Return status and body once they are complete."""
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return None
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return None
        self.received = b""
        return int(head[9:12]), body


class OpenLoop:
    """One run of a trace.

    Args:
        url: where to send.
        due_s: moments, ascending, from the start.
        bodies: JSON, one for each moment.

    """

    def __init__(self, url: str, *, due_s: NDArray[np.float64], bodies: Sequence[bytes]) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._address = (parts.hostname, parts.port)
        head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        )
        self._messages = [head.encode() + b"%d\r\n\r\n" % len(body) + body for body in bodies]
        nothing = np.full(len(due_s), np.nan)
        self._seen = Seen(due_s, nothing.copy(), nothing.copy(), np.zeros(len(due_s), dtype=np.int64))
        self._idle: deque[_Connection] = deque()
        self._selector = selectors.DefaultSelector()
        self._answered = 0
        self._sent_all = False
        self._started = 0.0

    def run(self) -> Seen:
        """Send everything at its moment and wait for the answers."""
        for _ in range(CONNECTIONS):
            self._idle.append(self._connect())
        taking = threading.Thread(target=self._take, daemon=True)
        gc.collect()
        gc.disable()
        try:
            with _priority():
                self._started = time.perf_counter() + 0.05
                taking.start()
                self._send()
                self._sent_all = True
                taking.join()
        finally:
            gc.enable()
            for key in list(self._selector.get_map().values()):
                key.data.socket.close()
            self._selector.close()
        return self._seen

    def _connect(self) -> _Connection:
        connection = _Connection(*self._address)
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        return connection

    def _send(self) -> None:
        for index, (due_s, message) in enumerate(zip(self._seen.due_s.tolist(), self._messages, strict=True)):
            wait_s = self._started + due_s - time.perf_counter()
            if wait_s > 0:
                time.sleep(wait_s)
            connection = self._idle.pop() if self._idle else self._connect()
            connection.request = index
            self._seen.sent_s[index] = time.perf_counter() - self._started
            connection.socket.sendall(message)

    def _take(self) -> None:
        last = 0.0
        while not self._sent_all or self._answered < len(self._messages):
            ready = self._selector.select(0.05)
            now = time.perf_counter() - self._started
            if not ready and self._sent_all and now - last > LAST_ANSWER_S:
                return
            for key, _ in ready:
                last = now
                self._receive(key.data)

    def _receive(self, connection: _Connection) -> None:
        data = connection.socket.recv(1 << 18)
        now = time.perf_counter() - self._started
        connection.received += data
        answer = connection.answer()
        if data and answer is None:
            return
        self._answered += 1
        if not data:  # broken: status 0
            self._selector.unregister(connection.socket)
            connection.socket.close()
            return
        assert answer is not None
        self._seen.done_s[connection.request] = now
        self._seen.status[connection.request] = answer[0]
        self._idle.append(connection)


def one_by_one(url: str, bodies: Sequence[bytes], *, passes: int) -> NDArray[np.float64]:
    """Return the seconds each body takes when nothing else is asked, the median of some passes; `[bodies]`.

    Raises:
        SystemExit: an answer is not 200.

    """
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    connection = _Connection(parts.hostname, parts.port)
    taken = np.empty((passes, len(bodies)))
    with contextlib.closing(connection.socket), _priority():
        for pass_, (index, body) in ((p, pair) for p in range(passes) for pair in enumerate(bodies)):
            message = b"POST %b HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n" % (
                parts.path.encode()
            )
            message += b"Content-Length: %d\r\n\r\n" % len(body) + body
            started = time.perf_counter()
            connection.socket.sendall(message)
            answer = None
            while answer is None:
                connection.received += connection.socket.recv(1 << 18)
                answer = connection.answer()
            taken[pass_, index] = time.perf_counter() - started
            if answer[0] != 200:
                raise SystemExit(f"the service answered {answer[0]}: {answer[1].decode(errors='replace')}")
    typical: NDArray[np.float64] = np.median(taken, axis=0)
    return typical


@contextlib.contextmanager
def _priority() -> Iterator[None]:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, before)
