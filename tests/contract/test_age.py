"""Age buckets."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from contract.age import age_buckets, buckets_of_sorted


@given(
    times=st.lists(st.integers(0, 2**32 - 1), max_size=50).map(sorted),
    later=st.one_of(st.integers(1, 2**33), st.sampled_from([2**power for power in range(33)])),
)
def test_the_buckets_of_sorted_times_are_those_of_their_ages(times, later):
    at = max(times, default=0) + later
    ages = at - np.array(times, dtype=np.int64)
    found = buckets_of_sorted(np.array(times, dtype=np.uint32), at)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, age_buckets(ages))
