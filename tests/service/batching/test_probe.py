"""What is said of the event loop's turns."""

import asyncio

import pytest

from service.batching.probe import STALE_S, TURNS, LoopProbe

LONG_S = 0.5 * STALE_S


async def said(pause_s):
    """Return what is said to three requests of one turn, so long after a long turn."""
    now_s = 1000.0
    probe = LoopProbe(lambda: now_s)
    probe.lag_s(now_s)
    now_s += LONG_S
    await asyncio.sleep(0)
    now_s += pause_s
    return [probe.lag_s(now_s) for _ in range(3)]


def test_requests_wait_as_long_as_the_last_turn_took():
    assert asyncio.run(said(0.0)) == pytest.approx([TURNS * LONG_S] * 3)


def test_after_a_pause_a_long_turn_is_forgotten_by_all_that_come_together():
    assert asyncio.run(said(600.0)) == [0.0] * 3
