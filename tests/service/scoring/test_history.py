"""Histories that are kept give the tensors of histories that are read whole."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.encoder import Encoder, Transform
from contract.records import empty_records
from contract.schema import Schema
from contract.vocabulary import Vocabulary
from service.history.mark import LEAST_COMPARED, MARK_RECORDS, Mark
from service.history.result import History
from service.layout import EXTRA_RECORDS
from service.scoring.history import FORGET_S, WHOLE_AGAIN_S, HistoryEncoder

L = 5
SCHEMA = Schema.from_json(
    {
        "actions": ["view", "buy"],
        "vocabularies": {"item": {"kind": "hashed", "rows": 8}},
        "behavior": [
            {"name": "item_id", "type": "categorical", "vocabulary": "item"},
            {"name": "spent", "type": "numeric", "transform": "log1p"},
        ],
        "ad": [{"name": "ad_id", "type": "categorical", "vocabulary": "item", "matches": "item_id"}],
    }
)
ENCODER = Encoder(
    SCHEMA,
    {
        "item": Vocabulary.build(
            SCHEMA.vocabularies["item"], np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
        )
    },
    {"behavior.spent": Transform("log1p")},
    history_length=L,
)
INPUTS = ("history_item_id", "history_spent", "history_action", "history_age", "history_mask")


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def made(times, start=0):
    records = empty_records(SCHEMA, len(times))
    records["item_id"] = np.arange(start + 1, start + 1 + len(times)) * 7919
    records["spent"] = np.where(np.arange(len(times)) % 3, np.arange(len(times)), np.nan)
    records["timestamp"] = times
    records["action"] = 1 + np.arange(len(times)) % 2
    return records


def mark(records):
    return Mark(records.nbytes, records[-MARK_RECORDS:].tobytes())


def whole(records, at, lag_s=0):
    """The store's answer to a read of the whole, as its reader gives it."""
    held = records[-(L + EXTRA_RECORDS) :]
    seen = held[held["timestamp"] < at - lag_s][-L:]
    newest = at - int(seen["timestamp"][-1]) if len(seen) else None
    status = "hit" if len(seen) else "empty"
    kept = {"held": held, "mark": mark(records)} if len(records) else {}
    return History(seen, status, newest_age_s=newest, **kept)


def since(records, appended):
    return History(records[len(records) - appended :], "hit", follows=True, mark=mark(records))


def encoder(*, cache_bytes=1 << 20, lag_s=0, clock=None, inputs=INPUTS):
    return HistoryEncoder(
        ENCODER, inputs=inputs, lag_s=lag_s, cache_bytes=cache_bytes, clock=clock or Clock()
    )


def assert_same(found, records, at, lag_s=0):
    seen = records[records["timestamp"] < max(0, at - lag_s)][-L:]
    expected = ENCODER.history([seen], [at])
    assert found.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found.tensors[name].dtype == tensor.dtype, name
        np.testing.assert_array_equal(found.tensors[name], tensor, err_msg=name)
        assert found.tensors[name].shape == tensor.shape
    assert found.length == len(seen)
    assert found.newest_age_s == (at - int(seen["timestamp"][-1]) if len(seen) else None)
    assert found.status == ("hit" if len(seen) else "empty")


@settings(deadline=None)
@given(
    times=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=150).map(sorted),
    steps=st.lists(
        st.tuples(st.integers(0, MARK_RECORDS - LEAST_COMPARED), st.integers(0, 2**33)), max_size=8
    ),
    lag_s=st.sampled_from([0, 10, 86_400]),
)
def test_a_users_next_requests_see_what_a_whole_read_shows(times, steps, lag_s):
    histories = encoder(lag_s=lag_s)
    everything = made(times)
    stored = max(1, len(times) // 2)
    for appended, at in [(0, times[-1] + 1), *steps]:
        kept = histories.find(1, at)
        grown = min(appended, len(times) - stored)
        stored += grown
        records = everything[:stored]
        # of what it holds, the encoder must have asked from the present value of the mark
        answer = whole(records, at, lag_s) if kept is None else since(records, grown)
        before = records[records["timestamp"] < max(0, at - lag_s)]
        if kept is None and len(records) > L + EXTRA_RECORDS and len(before) < L + len(records):
            reach = answer.held[answer.held["timestamp"] < max(0, at - lag_s)]
            if len(reach) < L:
                break  # the reader reads further back, and nothing is kept of that
        assert histories.expected_length(answer, kept) <= L
        assert_same(histories.encode(1, at, answer, kept), records, at, lag_s)


def test_what_is_kept_is_read_whole_again_after_a_while():
    clock = Clock()
    histories = encoder(clock=clock)
    records = made([10, 20, 30])
    histories.encode(1, 40, whole(records, 40), None)
    clock.now_s = WHOLE_AGAIN_S
    assert not histories.is_old(histories.find(1, 40))
    clock.now_s = WHOLE_AGAIN_S + 1
    kept = histories.find(1, 40)
    assert histories.is_old(kept)
    histories.encode(1, 40, whole(records[:2], 40), kept)
    assert not histories.is_old(histories.find(1, 40))


def test_what_is_kept_is_forgotten_in_the_end():
    clock = Clock()
    histories = encoder(clock=clock)
    histories.encode(1, 40, whole(made([10, 20, 30]), 40), None)
    clock.now_s = FORGET_S
    assert histories.find(1, 40) is not None
    clock.now_s = FORGET_S + 1
    assert histories.find(1, 40) is None
    assert histories.kept_bytes == 0


def test_appending_does_not_put_off_the_next_whole_read():
    clock = Clock()
    histories = encoder(clock=clock)
    records = made([10, 20, 30, 40])
    histories.encode(1, 50, whole(records[:3], 50), None)
    clock.now_s = WHOLE_AGAIN_S - 1
    histories.encode(1, 50, since(records, 1), histories.find(1, 50))
    assert not histories.is_old(histories.find(1, 50))
    clock.now_s = WHOLE_AGAIN_S + 1
    assert histories.is_old(histories.find(1, 50))


def test_a_request_of_the_past_that_what_is_kept_does_not_reach_is_read_whole():
    histories = encoder()
    records = made(range(1, 201))
    histories.encode(1, 1000, whole(records, 1000), None)
    assert histories.find(1, 1000) is not None
    assert histories.find(1, 201 - EXTRA_RECORDS) is not None
    assert histories.find(1, 200 - EXTRA_RECORDS) is None


def test_the_users_not_asked_for_longest_go_when_memory_is_full():
    records = made([10, 20, 30])
    one = encoder()
    one.encode(1, 40, whole(records, 40), None)
    histories = encoder(cache_bytes=3 * one.kept_bytes)
    for user in (1, 2, 3):
        histories.encode(user, 40, whole(records, 40), None)
    assert histories.find(1, 40) is not None
    histories.encode(4, 40, whole(records, 40), None)
    assert [histories.find(user, 40) is not None for user in (1, 2, 3, 4)] == [True, False, True, True]
    assert histories.kept_bytes == 3 * one.kept_bytes


def test_nothing_is_kept_without_memory_for_it():
    for cache_bytes in (0, 10):
        histories = encoder(cache_bytes=cache_bytes)
        records = made([10, 20, 30])
        assert_same(histories.encode(1, 40, whole(records, 40), None), records, 40)
        assert histories.find(1, 40) is None
        assert histories.kept_bytes == 0


def test_requests_under_way_at_once_each_see_what_their_own_read_showed():
    records = made([10, 20, 30, 40])
    for order in itertools.permutations((2, 3, 4)):
        histories = encoder()
        histories.encode(1, 50, whole(records[:2], 50), None)
        kept = histories.find(1, 50)
        for stored in order:
            answer = since(records[:stored], stored - 2)
            assert_same(histories.encode(1, 50, answer, kept), records[:stored], 50)


def test_what_is_kept_stays_as_long_as_a_read_however_much_is_appended():
    histories = encoder()
    records = made(range(1, 400))
    histories.encode(1, 1000, whole(records[:100], 1000), None)
    for stored in range(110, 400, 10):
        answer = since(records[:stored], 10)
        assert_same(histories.encode(1, 1000, answer, histories.find(1, 1000)), records[:stored], 1000)
    assert len(histories.find(1, 1000).times) <= L + 2 * EXTRA_RECORDS


def test_a_store_that_fails_gives_no_history_although_one_is_kept():
    histories = encoder()
    records = made([10, 20, 30])
    histories.encode(1, 40, whole(records, 40), None)
    away = History(records[:0], "unavailable", detail="down")
    found = histories.encode(1, 40, away, histories.find(1, 40))
    assert (found.status, found.length, found.newest_age_s) == ("unavailable", 0, None)
    assert not found.tensors["history_mask"].any()


def test_what_the_store_no_longer_holds_is_forgotten():
    histories = encoder()
    records = made([10, 20, 30])
    histories.encode(1, 40, whole(records, 40), None)
    found = histories.encode(1, 40, whole(records[:0], 40), histories.find(1, 40))
    assert found.status == "empty"
    assert histories.find(1, 40) is None
    assert histories.kept_bytes == 0


def test_tensors_of_what_is_kept_cannot_be_written_into_it():
    histories = encoder()
    records = made([10, 20, 30])
    found = histories.encode(1, 40, whole(records, 40), None)
    with pytest.raises(ValueError, match="read-only"):
        found.tensors["history_spent"][0, 0] = 1.0
