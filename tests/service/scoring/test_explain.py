"""The graph that weighs behaviours is opened once; the strongest are chosen exactly and told in words."""

import asyncio
import contextlib
import logging
import threading

import numpy as np
import pytest

from contract.bundle import Bundle
from contract.records import empty_records
from service.errors import InferenceError
from service.scoring.explain import Explainer, Opened, Words, strongest
from service.settings import RuntimeSettings
from service.wiring.explained import open_explained
from tests.support.tiny import tiny_bundle


@pytest.fixture(scope="module", name="bundle")
def _bundle(tmp_path_factory):
    return Bundle.open(tiny_bundle(tmp_path_factory.mktemp("explain"), "mean_pool"))


# ---------------------------------------------------------------- opened once


async def test_one_opening_serves_all_who_wait_and_outlives_those_who_leave(bundle):
    openings, may_open = [], threading.Event()

    def slow() -> Opened:
        openings.append(1)
        may_open.wait(5)
        return open_explained(bundle, RuntimeSettings())

    explainer = Explainer(bundle.schema, slow)
    records = empty_records(bundle.schema, 5)
    tasks = [asyncio.create_task(explainer.explanation(records, candidates=2, most=3)) for _ in range(20)]
    await asyncio.sleep(0.01)  # the loop is free meanwhile
    tasks[0].cancel()
    may_open.set()
    with contextlib.suppress(asyncio.CancelledError):
        await tasks[0]
    assert len(await asyncio.gather(*tasks[1:])) == 19
    await explainer.explanation(records, candidates=2, most=3)
    assert openings == [1]


async def test_an_opening_that_failed_is_tried_again_by_the_next_who_asks(bundle, caplog):
    openings = []

    def now_and_then() -> Opened:
        openings.append(1)
        if len(openings) == 1:
            raise MemoryError("no room")
        return open_explained(bundle, RuntimeSettings())

    explainer = Explainer(bundle.schema, now_and_then)
    records = empty_records(bundle.schema, 5)
    with caplog.at_level(logging.ERROR), pytest.raises(InferenceError, match="can't be computed here"):
        await explainer.explanation(records, candidates=2, most=3)
    assert "no room" in caplog.text
    assert await explainer.explanation(records, candidates=2, most=3)


# ---------------------------------------------------------------- which are the strongest


def test_the_largest_absolute_weight_comes_first_and_of_equals_the_newest():
    weight_NL = np.array(
        [[0.1, -0.5, 0.2, 0.5, 0.0], [0.25, 0.25, 0.25, 0.25, 0.0], [-0.0, 0.0, -2.0, 1e-30, -1e-30]],
        dtype=np.float32,
    )
    place_NK, weight_NK = strongest(weight_NL, 3)
    assert place_NK.tolist() == [[3, 1, 2], [3, 2, 1], [2, 4, 3]]
    np.testing.assert_array_equal(weight_NK, np.take_along_axis(weight_NL, place_NK, axis=1))
    assert strongest(weight_NL, 5)[0].tolist()[1] == [3, 2, 1, 0, 4]


@pytest.mark.parametrize("most", [1, 7, 40])
def test_the_strongest_are_those_of_a_stable_sort(most):
    rng = np.random.default_rng(3)
    weight_NL = rng.integers(-4, 5, (30, 40)).astype(np.float32) / 3
    place_NK, _ = strongest(weight_NL, most)
    order = np.argsort(-np.abs(weight_NL[:, ::-1]), axis=1, kind="stable")[:, :most]
    np.testing.assert_array_equal(place_NK, 39 - order)


def test_a_weight_that_is_no_number_is_no_explanation():
    with pytest.raises(InferenceError, match="not numbers"):
        strongest(np.array([[0.1, np.nan]], dtype=np.float32), 1)


def test_words_for_what_no_vocabulary_knows(bundle):
    records = empty_records(bundle.schema, 2)
    records["product_id"] = [0, 0xABC]
    records["paid"] = [3.1, np.nan]
    records["action"] = [2, 9]
    names = {"product": bundle.names("product")}
    first, second = Words(bundle.schema, names).of(records)
    assert (first["product_id"], first["paid"], first["action"]) == (None, 3.1, "purchase")
    assert (second["product_id"], second["paid"], second["action"]) == ("#0000000000000abc", None, "#9")
