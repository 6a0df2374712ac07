"""Between the event loop, which hands over records and waits for nothing, and the file: a bounded queue and a thread.

The thread looks at the queue a few times a second, not at every record: waking it costs the event loop more than
handing over a record does.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from service.capture.lines import Record, line_of

QUEUE_BYTES: Final = 32 << 20
WRITE_BYTES: Final = (
    64 << 10
)  # lines written at once: encoding them keeps the event loop waiting, writing does not
PAUSE_S: Final = 0.1
COMPLAIN_S: Final = 60.0

logger = logging.getLogger(__name__)


class Lines(Protocol):
    """Where lines go."""

    def append(self, lines: bytes) -> None:
        """Write whole lines, all or none; raises OSError."""
        ...

    def close(self) -> None:
        """Write no more."""
        ...


class Writer:
    """Writes records on a thread of its own.

    Args:
        file: where their lines go.
        on_done: told how many records ended how: written, by why they were kept (`sample`, `slow`), or `failed`.
        clock: seconds; how long ago it complained.
        pause_s: how long it leaves the queue alone.
        queue_bytes: what may wait.

    """

    def __init__(
        self,
        file: Lines,
        *,
        on_done: Callable[[str, int], None],
        clock: Callable[[], float],
        pause_s: float = PAUSE_S,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self._file = file
        self._on_done = on_done
        self._clock = clock
        self._pause_s = pause_s
        self._queue_bytes = queue_bytes
        self._queue: deque[Record] = deque()
        self._taken_in = self._given_out = 0  # bytes; each is changed by one thread alone
        self._some = threading.Event()
        self._ending = threading.Event()
        self._silent_until_s = 0.0
        self._unspoken = 0
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def put(self, record: Record) -> bool:
        """Leave a record to be written; False = too many wait, and it is not."""
        size = record.size
        if self._taken_in - self._given_out + size > self._queue_bytes:
            return False
        self._taken_in += size
        self._queue.append(record)
        if not self._some.is_set():
            self._some.set()
        return True

    def close(self, timeout_s: float) -> None:
        """Write what waits and close the file; a disk that hangs is left alone after `timeout_s`."""
        self._ending.set()
        self._some.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            logger.error("%d captured requests could not be written in %g s", len(self._queue), timeout_s)

    def _run(self) -> None:
        ending = False
        while not ending:
            self._some.wait()
            ending = self._ending.is_set()  # looked up first: what came before the end is written
            self._some.clear()
            for records in self._batches():
                self._write(records)
            self._ending.wait(self._pause_s)
        self._file.close()

    def _batches(self) -> Iterator[list[Record]]:
        batch: list[Record] = []
        size = 0
        while self._queue:
            record = self._queue.popleft()
            batch.append(record)
            size += record.size
            if size >= WRITE_BYTES:
                yield batch
                self._given_out += size
                batch, size = [], 0
        if batch:
            yield batch
            self._given_out += size

    def _write(self, records: list[Record]) -> None:
        written, lines = self._encoded(records)
        if not written:
            return
        try:
            self._file.append(b"".join(lines))
        except Exception as error:  # noqa: BLE001 - whatever it was, serving goes on and the next may be written
            self._lose(len(written), str(error) or type(error).__name__)
            return
        for why in ("sample", "slow"):
            count = sum(record.why == why for record in written)
            if count:
                self._on_done(why, count)

    def _encoded(self, records: list[Record]) -> tuple[list[Record], list[bytes]]:
        """Return the records that have a line, and their lines: one that has none costs the others nothing."""
        written, lines = [], []
        for record in records:
            try:
                lines.append(line_of(record))
            except Exception as error:  # noqa: BLE001 - a record that nobody thought of
                self._lose(1, f"request {record.request_id!a}: {str(error) or type(error).__name__}")
            else:
                written.append(record)
        return written, lines

    def _lose(self, count: int, reason: str) -> None:
        self._on_done("failed", count)
        self._complain(reason, count)

    def _complain(self, reason: str, count: int) -> None:
        """Say that records are lost; once a minute, since a full disk stays full."""
        self._unspoken += count
        now_s = self._clock()
        if now_s < self._silent_until_s:
            return
        logger.error("%d captured requests are lost, answers are not: %s", self._unspoken, reason)
        self._silent_until_s = now_s + COMPLAIN_S
        self._unspoken = 0
