"""A worker goes on following its slots, whatever came between."""

import asyncio
from types import SimpleNamespace

from service.wiring import follower
from service.wiring.exchange import Exchange
from service.wiring.follower import Follower

WAIT_S = 30.0


class Keeper:
    """Fails once, in a way that nobody thought of."""

    def __init__(self):
        self.state = SimpleNamespace(generation=0)
        self.tried = 0
        self.taken_over = asyncio.Event()

    def serve(self):
        pass

    def discard(self):
        pass

    async def adopt(self, state):
        self.tried += 1
        if self.tried == 1:
            raise KeyError("nobody thought of that")
        self.state = state
        self.taken_over.set()


class File:
    """Says what the slots should be."""

    wanted = None

    def read(self):
        return self.wanted


async def followed(folder):
    keeper, file, exchange = Keeper(), File(), Exchange(folder)
    following = Follower(keeper, file, exchange)
    await following.join()
    file.wanted = SimpleNamespace(generation=1)
    async with asyncio.timeout(WAIT_S):
        await keeper.taken_over.wait()
    await asyncio.sleep(0)
    await following.close()
    return keeper.tried, [report.generation for report in exchange.reports().values()]


def test_an_error_that_nobody_thought_of_is_logged_and_the_slots_are_followed_again(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(follower, "TRY_AGAIN_S", 0.0)
    assert asyncio.run(followed(tmp_path)) == (2, [1])
    assert "nobody thought of that" in caplog.text
