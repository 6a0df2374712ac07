"""The shadow at its end; what it scores is tested with services, in `tests.service.wiring.test_slots`."""

import asyncio
import time
from types import SimpleNamespace

import numpy as np
from prometheus_client import CollectorRegistry

from service.api.shadow import Shadow
from service.metrics import Metrics
from service.scoring.request import ScoreRequest

REQUEST = ScoreRequest("u", ["a"], timestamp=0, deadline_s=float("inf"))


class Scorer:
    """Begins, and is never done."""

    busy = False

    def __init__(self):
        self.begun = asyncio.Event()
        self.times = 0

    async def score(self, _request):
        self.times += 1
        self.begun.set()
        await asyncio.Event().wait()


async def closed_at_work():
    scorer = Scorer()
    schema = SimpleNamespace(ad=(), context=())
    served = SimpleNamespace(scorer=scorer, shadow_scorer=scorer, schema=schema, inside=0)
    champion = SimpleNamespace(scorer=scorer)
    state = SimpleNamespace(
        lineup=SimpleNamespace(slots={"champion": champion, "shadow": served}, champion=champion)
    )
    shadow = Shadow(state, Metrics(CollectorRegistry()), load=1.0, clock=time.monotonic)
    answer = SimpleNamespace(history_status="hit", scores=np.full(1, 0.5))
    for _ in range(3):
        shadow(SimpleNamespace(served=champion, request=REQUEST, answer=answer))
    await scorer.begun.wait()
    await shadow.close()
    for _ in range(20):  # turns of the loop, in which timers of no time come due
        await asyncio.sleep(0)
    return scorer.times, served.inside


def test_a_closed_shadow_begins_nothing_more_although_requests_wait():
    assert asyncio.run(closed_at_work()) == (1, 0)
