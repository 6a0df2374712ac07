"""Hashing many texts at once gives what the library gives for each."""

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from contract import keys
from contract.errors import KeyFormatError
from contract.keys import keys_of_texts
from contract.xxh3 import hash_many


def hashed(texts: list[bytes]) -> list[int]:
    """Hash texts at once."""
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    return hash_many(b"".join(texts), lengths).tolist()


def test_every_length_up_to_256_bytes_agrees_with_the_library() -> None:
    generator = np.random.default_rng(0)
    texts = [generator.bytes(length) for length in range(1, 257) for _ in range(5)]
    assert hashed(texts) == [xxhash.xxh3_64_intdigest(text) for text in texts]


@given(st.lists(st.binary(min_size=1, max_size=140), max_size=40))
def test_texts_of_mixed_lengths_agree_with_the_library(texts: list[bytes]) -> None:
    assert hashed(texts) == [xxhash.xxh3_64_intdigest(text) for text in texts]


def test_more_texts_than_one_block_agree_with_the_library() -> None:
    texts = [f"user-{index * 7919}".encode() for index in range(40_000)]
    assert hashed(texts) == [xxhash.xxh3_64_intdigest(text) for text in texts]


@given(st.lists(st.one_of(st.none(), st.text(min_size=1, max_size=60)), max_size=30))
def test_keys_of_packed_texts_are_the_keys_of_the_texts(texts: list[str | None]) -> None:
    encoded = [(text or "").encode() for text in texts]
    lengths = np.array([len(text) for text in encoded], dtype=np.int64)
    assert keys_of_texts(b"".join(encoded), lengths).tolist() == keys.keys(texts).tolist()


def test_a_text_that_hashes_to_0_is_given_key_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "hash_many", lambda _blob, lengths: np.zeros(len(lengths), dtype=np.uint64))
    assert keys_of_texts(b"ab", np.array([1, 0, 1])).tolist() == [1, 0, 1]


def test_a_long_packed_text_is_refused() -> None:
    with pytest.raises(KeyFormatError, match="longer than 256 bytes"):
        keys_of_texts(b"a" + b"x" * 257, np.array([1, 257]))
