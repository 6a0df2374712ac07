"""Ids become keys."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64

from contract import keys
from contract.errors import KeyFormatError

ids = st.text(min_size=1, max_size=64).filter(lambda text: text.isprintable())


@given(st.integers())
def test_an_integer_and_its_decimal_text_are_one_id(number: int) -> None:
    assert keys.key(number) == keys.key(str(number))


def test_the_key_is_xxh3_with_seed_0_of_the_utf8_text() -> None:
    assert keys.key("Zoë-42") == xxh3_64("Zoë-42".encode(), seed=0).intdigest()


def test_a_numpy_integer_is_an_integer() -> None:
    assert keys.key(np.int64(42)) == keys.key("42")


@given(st.lists(st.one_of(st.none(), ids)))
def test_many_ids_have_the_keys_of_each_and_none_is_0(values: list[str | None]) -> None:
    assert keys.keys(values).tolist() == [0 if value is None else keys.key(value) for value in values]


@pytest.mark.parametrize("value", [True, 1.5, "", b"x", None, ["a"], "é" * 129, "\ud800"])
def test_what_is_no_id_is_refused(value: object) -> None:
    with pytest.raises(KeyFormatError):
        keys.key(value)


def test_an_id_of_256_bytes_is_the_longest() -> None:
    assert keys.key("é" * 128) > 0


def test_a_key_in_redis_is_16_hex_digits() -> None:
    assert keys.key_hex(255) == "00000000000000ff"
