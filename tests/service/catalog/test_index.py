"""The index of ads against a dict."""

from hypothesis import given
from hypothesis import strategies as st

from service.catalog.index import FIRST_BUCKETS, FULLEST, SLOTS, IdIndex

ids = st.text(min_size=1, max_size=8)


@given(st.lists(st.tuples(st.booleans(), ids), max_size=80), st.lists(ids, max_size=20))
def test_it_holds_what_a_dict_would(changes, asked):
    index, expected = IdIndex(), {}
    for number, (adds, text) in enumerate(changes):
        if adds and text not in expected:
            index.add(text, number)
            expected[text] = number
        elif not adds and text in expected:
            index.remove(text)
            del expected[text]
    assert len(index) == len(expected)
    everything = [*expected, *asked]
    assert index.find(everything).tolist() == [expected.get(text, -1) for text in everything]


def test_it_grows_and_keeps_those_that_find_no_slot():
    index = IdIndex()
    texts = [f"ad-{number}" for number in range(40 * FIRST_BUCKETS * FULLEST)]
    overflowing = 0
    for row, text in enumerate(texts):
        index.add(text, row)
        overflowing = max(overflowing, len(index._overflow))
    assert index._hash_BS.shape == (64 * FIRST_BUCKETS, SLOTS)
    assert overflowing, "the test wants ids without a slot too"
    assert index.find(texts).tolist() == list(range(len(texts)))
    assert index.find(["stranger", texts[5], "another"]).tolist() == [-1, 5, -1]
    for text in texts[::2]:
        index.remove(text)
    assert index.find(texts).tolist() == [row if row % 2 else -1 for row in range(len(texts))]
    assert index.row(texts[0]) is None
    index.add(texts[0], 7)
    assert index.row(texts[0]) == 7


def test_an_id_asked_for_twice_is_found_twice():
    index = IdIndex()
    index.add("a", 3)
    assert index.find(["a", "b", "a"]).tolist() == [3, -1, 3]
    assert index.find([]).tolist() == []


def test_a_text_whose_hash_is_0_is_like_any_other():
    index = IdIndex()
    assert hash("") == 0
    assert index.find([""]).tolist() == [-1]
    index.add("", 3)
    assert index.find(["", "stranger"]).tolist() == [3, -1]
    index.remove("")
    assert index.row("") is None
