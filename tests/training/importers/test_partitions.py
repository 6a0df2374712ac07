"""Sorting outside memory: the order, the bound, and what is left on disk."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import InputError
from training.importers.partitions import MOST_FILES, Partitions, splitters

EVENT = np.dtype([("user", "<u4"), ("timestamp", "<u4"), ("row", "<u4")])


def events(pairs):
    records = np.zeros(len(pairs), dtype=EVENT)
    for row, (user, timestamp) in enumerate(pairs):
        records[row] = (user, timestamp, row)
    return records


def sorted_portions(folder, records, *, cuts, most_rows, portion=3):
    parts = Partitions(folder, EVENT, splitters=np.array(cuts, np.uint32), most_rows=most_rows)
    parts.write(records[start : start + portion] for start in range(0, len(records), portion))
    return list(parts.sorted_records())


@settings(max_examples=50, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=60),
    cuts=st.lists(st.integers(0, 9), unique=True, max_size=3).map(sorted),
)
def test_rows_come_back_by_user_and_second_in_the_order_of_the_file(tmp_path_factory, pairs, cuts):
    folder = tmp_path_factory.mktemp("sort") / "parts"
    records = events(pairs)
    found = sorted_portions(folder, records, cuts=cuts, most_rows=60)
    wanted = records[np.lexsort((records["row"], records["timestamp"], records["user"]))]
    assert np.array_equal(np.concatenate([np.zeros(0, EVENT), *found]), wanted)
    assert not folder.exists()


@pytest.mark.parametrize("cuts", [[], [1], [3, 4, 90]], ids=str)
def test_no_portion_is_larger_than_may_be_sorted_at_a_time(tmp_path, cuts):
    generator = np.random.default_rng(0)
    users, seconds = generator.zipf(1.5, 4000) % 100, generator.integers(0, 50, 4000)
    records = events(list(zip(users, seconds, strict=True)))
    largest_user = np.bincount(records["user"]).max()
    found = sorted_portions(tmp_path / "parts", records, cuts=cuts, most_rows=largest_user, portion=100)
    assert max(map(len, found)) <= largest_user < 2500
    assert sum(map(len, found)) == 4000


def test_a_portion_holds_all_rows_of_its_users(tmp_path):
    records = events([(user % 7, user) for user in range(200)])
    found = sorted_portions(tmp_path / "parts", records, cuts=[], most_rows=40)
    users = [set(portion["user"].tolist()) for portion in found]
    assert len(users) > 1
    assert sum(map(len, users)) == 7


def test_a_user_with_more_rows_than_may_be_sorted_is_named(tmp_path):
    records = events([(5, second) for second in range(30)] + [(4, 1), (6, 1)])
    with pytest.raises(
        InputError, match=r"^user 5 has 30 rows, and 29 are sorted at a time; give more --memory$"
    ):
        sorted_portions(tmp_path / "parts", records, cuts=[], most_rows=29)


def test_splitters_cut_a_sample_into_files_that_memory_holds():
    users = np.repeat(np.arange(1000, dtype=np.uint32), 10)
    cuts = splitters(users, rows=1_000_000, most_rows=100_000)
    assert len(cuts) == 16  # 17 files of 0.6 x 100,000 rows
    assert (np.diff(cuts) >= 55).all()


def test_there_are_never_more_files_than_a_process_may_open():
    users = np.arange(100_000, dtype=np.uint32)
    assert len(splitters(users, rows=10**12, most_rows=1000)) < MOST_FILES
