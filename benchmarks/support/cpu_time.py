"""Processor time of processes that run elsewhere: a service with its workers, a store."""

import contextlib
from collections.abc import Mapping

import psutil


def cpu_seconds_of(processes: Mapping[str, int]) -> dict[str, float]:
    """Return the seconds that each process (by its id) and its living children have had a processor, all threads."""
    return {name: sum(map(_seconds, _family(pid))) for name, pid in processes.items()}


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _seconds(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0
