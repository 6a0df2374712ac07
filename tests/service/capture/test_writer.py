"""The thread between the event loop and the disk: nobody waits for it, what waits is bounded, what is lost is told."""

import logging
import threading
import time
from collections import Counter

import numpy as np
import pytest

from service.capture.record import parse
from service.capture.writer import COMPLAIN_S, Writer

WAIT_S = 20.0


class Disk:
    """A disk that the test stops and breaks."""

    def __init__(self):
        self.lines = []
        self.writes = 0
        self.error = None
        self.closed = False
        self.now_s = 100.0
        self.reached = threading.Semaphore(0)
        self.goes_on = threading.Event()
        self.goes_on.set()

    def append(self, lines):
        self.reached.release()
        assert self.goes_on.wait(WAIT_S)
        self.writes += 1
        if self.error:
            raise self.error
        self.lines += lines.splitlines(keepends=True)

    def close(self):
        self.closed = True

    @property
    def kept(self):
        return [parse(line).request_id for line in self.lines]


def until(condition):
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


@pytest.fixture
def disk():
    return Disk()


@pytest.fixture
def results():
    return Counter()


@pytest.fixture
def writer(disk, results):
    """Makes a writer that has begun; all are closed at the end."""
    made = []

    def make(**options):
        def count(result, number):
            results[result] += number

        one = Writer(disk, on_done=count, clock=lambda: disk.now_s, pause_s=0.001, **options)
        one.start()
        made.append(one)
        return one

    yield make
    disk.goes_on.set()
    for one in made:
        one.close(WAIT_S)


def test_records_are_written_in_their_order_and_counted_by_why(writer, disk, results, record):
    one = writer()
    for number in range(500):
        assert one.put(record(str(number), why="slow" if number % 5 == 0 else "sample"))
    one.close(WAIT_S)
    assert disk.kept == [str(number) for number in range(500)]
    assert results == {"slow": 100, "sample": 400}
    assert disk.closed


def test_a_record_is_written_without_waiting_for_more(writer, disk, record):
    one = writer()
    for number in range(3):
        one.put(record(str(number)))
        assert disk.reached.acquire(timeout=WAIT_S)


def test_many_small_records_share_writes(writer, disk, record):
    disk.goes_on.clear()
    one = writer()
    one.put(record("first"))
    assert disk.reached.acquire(timeout=WAIT_S)
    for number in range(1000):
        one.put(record(str(number)))
    disk.goes_on.set()
    one.close(WAIT_S)
    assert len(disk.lines) == 1001
    assert disk.writes < 50


def test_what_a_slow_disk_cannot_take_is_turned_away_and_later_taken_again(writer, disk, record):
    disk.goes_on.clear()
    size = record("x").size
    one = writer(queue_bytes=10 * size)
    taken = [one.put(record(str(number))) for number in range(15)]
    assert taken == [True] * 10 + [False] * 5
    disk.goes_on.set()
    until(lambda: one.put(record("late")))
    one.close(WAIT_S)
    assert disk.kept == [*(str(number) for number in range(10)), "late"]


def test_a_full_disk_loses_records_says_so_once_a_minute_and_goes_on_after(
    writer, disk, results, record, caplog
):
    disk.error = OSError(28, "No space left on device")
    one = writer()

    def lose(count):
        for _ in range(count):
            before = results["failed"]
            one.put(record())
            until(lambda before=before: results["failed"] > before)

    with caplog.at_level(logging.ERROR):
        lose(3)
        disk.now_s += COMPLAIN_S + 1
        lose(1)
    assert [each.getMessage() for each in caplog.records] == [
        "1 captured requests are lost, answers are not: [Errno 28] No space left on device",
        "3 captured requests are lost, answers are not: [Errno 28] No space left on device",
    ]
    disk.error = None
    one.put(record("after"))
    one.close(WAIT_S)
    assert disk.kept == ["after"]
    assert results == {"failed": 4, "sample": 1}


def test_a_record_that_cannot_be_encoded_costs_only_itself_and_is_told_by_its_name(
    writer, disk, results, record, caplog
):
    disk.goes_on.clear()
    one = writer()
    one.put(record("first"))
    assert disk.reached.acquire(timeout=WAIT_S)  # the rest goes into one write
    one.put(record("before"))
    one.put(record("\ud800"))
    one.put(record("strided", scores=np.arange(9.0)[::2]))
    one.put(record("after", why="slow"))
    disk.goes_on.set()
    one.close(WAIT_S)
    assert disk.kept == ["first", "before", "after"]
    assert disk.writes == 2
    assert results == {"sample": 2, "slow": 1, "failed": 2}
    (told,) = [each.getMessage() for each in caplog.records]
    assert told.startswith("1 captured requests are lost, answers are not: request '\\ud800': ")


def test_a_disk_that_hangs_does_not_keep_the_process(writer, disk, record, caplog):
    disk.goes_on.clear()
    one = writer()
    one.put(record("a"))
    assert disk.reached.acquire(timeout=WAIT_S)
    one.put(record("b"))
    one.close(0.01)
    assert "1 captured requests could not be written in 0.01 s" in caplog.text
