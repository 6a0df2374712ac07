"""Packed records: layout, order, duplicates."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from contract.records import empty_records, record_dtype, time_order
from contract.schema import Schema

SCHEMA = Schema.from_json(
    {
        "vocabularies": {"item": {"kind": "exact"}},
        "behavior": [
            {"name": "item", "type": "categorical", "vocabulary": "item"},
            {"name": "price", "type": "numeric"},
        ],
        "ad": [{"name": "ad_id", "type": "categorical", "vocabulary": "item", "matches": "item"}],
    }
)
events = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3), st.integers(1, 2)), max_size=40
)


def _packed(rows: list[tuple[int, int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
    records = empty_records(SCHEMA, len(rows))
    for index, (_, item, second, action) in enumerate(rows):
        records[index]["item"], records[index]["timestamp"], records[index]["action"] = item, second, action
    return np.array([user for user, *_ in rows], dtype=np.int64), records


def test_a_record_is_little_endian_and_padded_to_8_bytes() -> None:
    dtype = record_dtype(SCHEMA)
    assert dtype.itemsize == 24
    record = np.zeros(1, dtype=dtype)
    record["item"], record["price"], record["timestamp"], record["action"] = 1, 1.0, 2, 3
    assert record.tobytes().hex() == "01000000000000000000803f020000000300000000000000"


@given(events)
def test_packing_and_reading_bytes_round_trips(rows: list[tuple[int, int, int, int]]) -> None:
    _, records = _packed(rows)
    assert np.array_equal(np.frombuffer(records.tobytes(), dtype=record_dtype(SCHEMA)), records)


@given(events)
def test_order_is_by_user_and_time_stable_with_identical_records_once(
    rows: list[tuple[int, int, int, int]],
) -> None:
    users, records = _packed(rows)
    kept = [row for index, row in enumerate(rows) if row not in rows[:index]]
    expected = sorted(kept, key=lambda row: (row[0], row[2]))
    order = time_order(users, records)
    assert [(int(users[i]), *records[["item", "timestamp", "action"]][i].tolist()) for i in order] == expected


@given(events)
def test_normalising_twice_changes_nothing_more(rows: list[tuple[int, int, int, int]]) -> None:
    users, records = _packed(rows)
    order = time_order(users, records)
    once, owners = records[order], users[order]
    assert once[time_order(owners, once)].tobytes() == once.tobytes()
