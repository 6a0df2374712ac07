"""The processes of a service under test, and waiting for what they do."""

import time
from collections.abc import Callable, Iterable

import psutil

from tests.support.serving import Service


def workers_of(started: Service) -> list[psutil.Process]:
    """Return the worker processes of a service of several."""
    return [
        child
        for child in psutil.Process(started.process.pid).children()
        if child.status() != psutil.STATUS_ZOMBIE and "service.wiring.child" in child.cmdline()
    ]


def pids(processes: Iterable[psutil.Process]) -> set[int]:
    return {process.pid for process in processes}


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    return [
        process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
