"""Keys become rows."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from contract import vocabulary
from contract.errors import InputError
from contract.schema import VocabularySpec
from contract.vocabulary import NameTable, Vocabulary

uint64 = st.integers(0, 2**64 - 1)
known_keys = st.lists(st.integers(1, 2**64 - 1), unique=True, max_size=300).map(
    lambda values: np.array(sorted(values), dtype=np.uint64)
)


@given(known_keys, st.lists(uint64, max_size=50), st.integers(1, 9))
def test_rows_are_padding_then_buckets_then_known_ids_by_key(
    known: np.ndarray, strangers: list[int], buckets: int
) -> None:
    vocabulary = Vocabulary(VocabularySpec(kind="exact", oov_buckets=buckets), known)
    asked = np.array([0, *strangers, *known.tolist()], dtype=np.uint64)
    rank = {int(key): index for index, key in enumerate(known)}
    expected = [
        0 if key == 0 else 1 + buckets + rank[key] if key in rank else 1 + key % buckets
        for key in asked.tolist()
    ]
    assert vocabulary.rows(asked).tolist() == expected
    assert vocabulary.size == 1 + buckets + len(known)


def test_a_large_vocabulary_agrees_with_binary_search() -> None:
    generator = np.random.default_rng(7)
    known = np.unique(generator.integers(1, 2**64, 200_000, dtype=np.uint64))
    asked = np.concatenate(
        [generator.choice(known, 5000), generator.integers(1, 2**64, 5000, dtype=np.uint64)]
    )
    place = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    expected = np.where(known[place] == asked, 4 + place, 1 + (asked % np.uint64(3)).astype(np.int64))
    vocabulary = Vocabulary(VocabularySpec(kind="exact", oov_buckets=3), known)
    assert np.array_equal(vocabulary.rows(asked), expected)


@given(hnp.arrays(np.uint64, (3, 4), elements=uint64))
def test_a_hashed_vocabulary_spreads_keys_over_its_rows(asked: np.ndarray) -> None:
    vocabulary = Vocabulary(VocabularySpec(kind="hashed", rows=5), np.zeros(0, dtype=np.uint64))
    assert np.array_equal(
        vocabulary.rows(asked), np.where(asked == 0, 0, asked % np.uint64(5) + np.uint64(1))
    )
    assert vocabulary.size == 6


def test_building_keeps_what_was_seen_often_enough() -> None:
    seen, counts = np.array([0, 9, 5, 7], dtype=np.uint64), np.array([99, 2, 1, 3])
    built = Vocabulary.build(VocabularySpec(kind="exact", min_count=2), seen, counts)
    assert built.known.tolist() == [7, 9]


@pytest.mark.parametrize("known", [[2, 1], [1, 1], [0, 1]])
def test_known_keys_out_of_order_are_refused(known: list[int]) -> None:
    with pytest.raises(InputError, match="ascending"):
        Vocabulary(VocabularySpec(kind="exact"), np.array(known, dtype=np.uint64))


@given(st.lists(st.text(max_size=20).filter(lambda text: text.isprintable()), max_size=20))
def test_names_come_back_and_strangers_have_none(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("names") / "x.names"
    NameTable.write(path, texts)
    known = np.arange(10, 10 + len(texts), dtype=np.uint64)
    table = NameTable.open(path, known)
    assert [table.get(int(key)) for key in known] == texts
    assert table.get(3) is None
    assert table.get(10 + len(texts)) is None


def test_names_of_some_keys_go_from_one_file_to_another(tmp_path, monkeypatch):
    monkeypatch.setattr(vocabulary, "_TEXTS_AT_ONCE", 2)
    known = np.array([2, 3, 5, 7, 11], dtype=np.uint64)
    NameTable.write(tmp_path / "all.names", ["zwei", "", "fünf", "sieben", "elf"])
    wanted = np.array([1, 3, 5, 11, 12], dtype=np.uint64)
    lengths, pieces = NameTable.open(tmp_path / "all.names", known).encoded(wanted)
    NameTable.write_encoded(tmp_path / "some.names", lengths, pieces)
    some = NameTable.open(tmp_path / "some.names", wanted)
    assert [some.get(int(key)) for key in wanted] == ["", "", "fünf", "elf", ""]
    NameTable.write(tmp_path / "none.names", [])
    lengths, pieces = NameTable.open(tmp_path / "none.names", known[:0]).encoded(wanted[:1])
    assert lengths.tolist() == [0]
    assert b"".join(pieces) == b""


def test_names_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    NameTable.write(tmp_path / "x.names", ["a", "b"])
    with pytest.raises(InputError, match="2 names for 3 ids"):
        NameTable.open(tmp_path / "x.names", np.arange(1, 4, dtype=np.uint64))
