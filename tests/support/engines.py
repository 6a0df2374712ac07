"""An engine round a graph whose answers can be checked, and what it told of itself."""

import asyncio
import contextlib
import math
import threading
import time

import numpy as np

from service.batching.engine import Engine
from service.batching.fit import LEAST_RUNS
from service.batching.job import Limits

CURSED = 13


def graph(tensors):
    """The logit of an ad is its number plus the sum of the history; 13 can't be scored."""
    if (tensors["ad_x"] == CURSED).any():
        raise ValueError("thirteen")
    return (tensors["ad_x"] + tensors["history_x"].sum(axis=1, keepdims=True)).astype(np.float32)


class Watched:
    """An engine and what it told of itself."""

    def __init__(self, run=graph, *, limits=None, running=2, prepared=1, inline_s=0.0, turn_s=0.0, nice=0):
        self.reports = []
        self.late = 0
        self.run = run
        self.engine = Engine(
            limits=limits or Limits(max_requests=4, max_cells=100_000, chunk_candidates=64),
            running=running,
            prepared=prepared,
            inline_s=inline_s,
            turn_s=turn_s,
            nice=nice,
            clock=time.monotonic,
            on_run=self.reports.append,
            on_late=self._on_late,
        )

    def _on_late(self):
        self.late += 1

    async def score(self, ads, history=(1, 2), deadline_s=math.inf, **options):
        inputs = {"ad_x": np.array([ads]), "history_x": np.array([history])}
        options = {"run": self.run, **options}
        job = await self.engine.score(
            inputs, candidates=len(ads), length=len(history), deadline_s=deadline_s, **options
        )
        return job.logit_N.tolist()


@contextlib.asynccontextmanager
async def running(*arguments, **options):
    watched = Watched(*arguments, **options)
    watched.engine.start()
    try:
        yield watched
    finally:
        await asyncio.sleep(0)  # reports come a turn of the loop later
        watched.engine.close()


async def learnt(watched, **options):
    """Return once the engine knows how long a graph takes; what it told of that is forgotten."""
    for _ in range(LEAST_RUNS):
        await watched.score([1], **options)
    await asyncio.sleep(0)  # reports come a turn of the loop later
    watched.reports.clear()


class Gate:
    """Holds the graph until it is opened, so that a queue forms."""

    def __init__(self):
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, tensors):
        self.entered.set()
        assert self.opened.wait(10)
        return graph(tensors)
