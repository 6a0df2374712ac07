"""What a value's length and end prove."""

from hypothesis import given
from hypothesis import strategies as st

from service.history.mark import LEAST_COMPARED, MARK_RECORDS, Mark

SIZE = 8


def value(records):
    return b"".join(record.to_bytes(SIZE, "little") for record in records)


def mark(stored):
    return Mark(len(stored), stored[-MARK_RECORDS * SIZE :])


def appended(before, after):
    return mark(before).appended(after[-MARK_RECORDS * SIZE :], len(after), SIZE)


@given(stored=st.integers(1, 60), added=st.integers(0, 40))
def test_what_was_appended_is_found_while_the_old_end_is_in_sight(stored, added):
    before, after = value(range(stored)), value(range(stored + added))
    found = appended(before, after)
    if added <= MARK_RECORDS - min(stored, LEAST_COMPARED):
        assert found == after[len(before) :]
    else:
        assert found is None


@given(
    records=st.lists(st.integers(0, 200), unique=True, min_size=1, max_size=60),
    inserted=st.lists(st.integers(201, 400), unique=True, max_size=20),
    trimmed=st.integers(0, 30),
    data=st.data(),
)
def test_nothing_but_appending_is_taken_for_appending(records, inserted, trimmed, data):
    changed = list(records)
    for record in inserted:
        changed.insert(data.draw(st.integers(0, len(changed))), record)
    changed = changed[trimmed:]
    before, after = value(records), value(changed)
    found = appended(before, after)
    if found is not None and trimmed == 0:
        assert before + found == after
    if trimmed and len(inserted) != trimmed:
        # a trim is of thousands of records: it never comes with as many new ones between two requests
        assert found is None or after.endswith(before[-SIZE:] + found)


def test_a_value_that_is_gone_shorter_or_no_whole_records_is_read_anew():
    before = value(range(20))
    assert appended(before, b"") is None
    assert appended(before, before[SIZE:]) is None
    assert appended(before, before + b"\0") is None


def test_another_value_of_the_same_length_is_told_by_its_end():
    assert appended(value(range(20)), value(range(1, 21))) is None


def test_too_little_of_the_old_end_in_sight_proves_nothing():
    before = value(range(40))
    corrected = value([*range(100, 138), 38, 39, *range(40, 70)])
    assert appended(before, corrected) is None
