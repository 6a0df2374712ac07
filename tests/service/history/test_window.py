"""The extension rule, against a naive slice: any times, any L, and values that change between two reads."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.records import Records
from service.history.window import DamagedValueError, Window

DTYPE = np.dtype([("item", "<u8"), ("timestamp", "<u4"), ("action", "u1"), ("_padding", "V3")])


def records_at(times: list[int]) -> Records:
    records = np.zeros(len(times), dtype=DTYPE)
    records["item"] = np.arange(1, len(times) + 1)  # no two alike, as in a store
    records["timestamp"] = np.sort(np.array(times, dtype=np.int64))
    return records


def getrange(value: bytes, start: int, end: int) -> bytes:
    """Redis's GETRANGE."""
    start, end = (offset + len(value) if offset < 0 else offset for offset in (start, end))
    return value[max(start, 0) : max(end, 0) + 1]


def naive(records: Records, cut: int, wanted: int) -> Records:
    return records[records["timestamp"] < cut][-wanted:]


def read(window: Window, value: bytes, change: Callable[[bytes], bytes] = lambda value: value) -> Records:
    while True:
        found = window.take(getrange(value, *window.byte_range), len(value))
        if found is not None:
            return found
        value = change(value)


times = st.lists(st.integers(0, 60), max_size=80)
CHANGES = ["trim", "append", "insert", "delete"]
wanted_and_first = st.integers(1, 12).flatmap(
    lambda wanted: st.tuples(st.just(wanted), st.integers(wanted, 20))
)


@given(times=times, sizes=wanted_and_first, cut=st.integers(-5, 70))
def test_a_window_is_the_naive_slice(times, sizes, cut):
    records = records_at(times)
    window = Window(DTYPE, wanted=sizes[0], first=sizes[1], cut=cut)
    found = read(window, records.tobytes())
    assert found.tobytes() == naive(records, cut, sizes[0]).tobytes()


@given(
    times=times,
    sizes=wanted_and_first,
    cut=st.integers(0, 60),
    added=st.lists(st.integers(1, 40), max_size=5),
)
def test_events_that_arrive_between_two_reads_change_nothing(times, sizes, cut, added):
    records = records_at(times)
    arriving = iter(added)

    def append(value: bytes) -> bytes:
        new = records_at([100] * next(arriving, 0))
        new["item"] += len(value)
        return value + new.tobytes()

    window = Window(DTYPE, wanted=sizes[0], first=sizes[1], cut=cut)
    found = read(window, records.tobytes(), append)
    assert found.tobytes() == naive(records, cut, sizes[0]).tobytes()


@given(
    times=times,
    sizes=wanted_and_first,
    cut=st.integers(0, 60),
    changes=st.lists(
        st.tuples(st.sampled_from(["trim", "append", "insert", "delete"]), st.integers(0, 30)), max_size=6
    ),
)
def test_whatever_happens_between_two_reads_a_window_is_one_run_of_the_past(times, sizes, cut, changes):
    pending = iter(changes)
    everything = {record.tobytes() for record in records_at(times)}

    def change(value: bytes) -> bytes:
        kind, size = next(pending, ("append", 0))
        stored = np.frombuffer(value, dtype=DTYPE)
        if kind == "trim":
            stored = stored[size:]
        elif kind == "delete":
            stored = stored[:0]
        else:
            new = records_at([100 if kind == "append" else size] * (size % 4 + 1))
            new["item"] += 1000 + len(everything)
            everything.update(record.tobytes() for record in new)
            stored = np.concatenate([stored, new])
            stored = stored[np.argsort(stored["timestamp"], kind="stable")]
        return stored.tobytes()

    found = read(Window(DTYPE, wanted=sizes[0], first=sizes[1], cut=cut), records_at(times).tobytes(), change)
    found_bytes = [record.tobytes() for record in found]
    assert len(found) <= sizes[0]
    assert (found["timestamp"] < cut).all()
    assert (np.diff(found["timestamp"].astype(np.int64)) >= 0).all()
    assert len(set(found_bytes)) == len(found)
    assert everything.issuperset(found_bytes)


def test_the_second_read_overlaps_by_one_record_and_later_ones_double():
    records = records_at(list(range(100)))
    window = Window(DTYPE, wanted=4, first=8, cut=10)
    ranges = []
    found = None
    while found is None:
        ranges.append(window.byte_range)
        found = window.take(getrange(records.tobytes(), *window.byte_range), None)
    size = DTYPE.itemsize
    assert ranges[:4] == [
        (-8 * size, -1),
        (-16 * size, -7 * size - 1),
        (-32 * size, -15 * size - 1),
        (-64 * size, -31 * size - 1),
    ]
    assert found["timestamp"].tolist() == [6, 7, 8, 9]
    assert window.reads == 5


@pytest.mark.parametrize("cut", [2**32 - 1, 2**32, 2**40])
def test_the_end_of_time_is_no_special_case(cut):
    records = records_at([5, 2**32 - 1])
    found = read(Window(DTYPE, wanted=5, first=5, cut=cut), records.tobytes())
    assert len(found) == (1 if cut == 2**32 - 1 else 2)


def test_a_length_that_is_no_multiple_of_a_record_is_damage_even_where_the_tail_looks_whole():
    value = b"x" + records_at(list(range(50))).tobytes()
    window = Window(DTYPE, wanted=4, first=8, cut=100)
    with pytest.raises(DamagedValueError, match="multiple"):
        window.take(getrange(value, *window.byte_range), len(value))


def test_records_out_of_order_are_damage():
    records = records_at([1, 2, 3])[::-1]
    with pytest.raises(DamagedValueError, match="order of time"):
        Window(DTYPE, wanted=4, first=8, cut=100).take(records.tobytes(), records.nbytes)
