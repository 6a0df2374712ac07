"""What a worker is made of, by its settings and the cores of the machine."""

import os

import pytest
from prometheus_client import CollectorRegistry

from service.metrics import Metrics
from service.settings import Settings
from service.wiring.assembly import engine_of, threads_of


def settings_of(workers, *, threads=0, turn_ms=5.0):
    return Settings.model_validate(
        {
            "server": {"workers": workers},
            "runtime": {"threads": threads},
            "batching": {"turn_ms": turn_ms},
        }
    )


@pytest.mark.parametrize(
    ("cores_workers_threads", "turn_ms", "budget_s"),
    [
        ((2, 2, 0), 5.0, 0.005),  # a worker per core
        ((4, 8, 0), 5.0, 0.005),
        ((1, 1, 0), 5.0, 0.005),
        ((2, 1, 0), 5.0, 0.0),  # two threads
        ((2, 1, 1), 5.0, 0.0),  # its thread has a core of its own
        ((2, 2, 2), 5.0, 0.0),
        ((2, 2, 0), 0.0, 0.0),
    ],
)
def test_the_loop_runs_graphs_where_threads_have_no_core_of_their_own(
    monkeypatch, cores_workers_threads, turn_ms, budget_s
):
    cores, workers, threads = cores_workers_threads
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)))
    settings = settings_of(workers, threads=threads, turn_ms=turn_ms)
    engine = engine_of(settings, Metrics(CollectorRegistry()))
    assert engine._turns.budget_s == budget_s
    assert threads_of(settings) == (threads or max(1, cores // workers))
