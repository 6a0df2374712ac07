"""What `--memory` accepts, and how much may be read and sorted under it."""

import pytest

from contract.errors import InputError
from training.importers.memory import MEBIBYTE, PROGRAM, ROW, parse_memory


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4 * 10**9), ("800 mb", 8 * 10**8), ("512MiB", 512 * MEBIBYTE), ("1.5GiB", 1536 * MEBIBYTE)],
)
def test_a_size_is_read(text, size):
    assert parse_memory(text).size == size


@pytest.mark.parametrize("text", ["", "4", "four GB", "-4GB", "4TB", "1e9GB", "4GB2"])
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(InputError, match="expected a size such as 4GB"):
        parse_memory(text)


def test_too_little_is_refused_with_the_least():
    with pytest.raises(InputError, match="give at least 512MiB"):
        parse_memory("500MB")
    with pytest.raises(InputError, match="give at least 612MiB"):
        parse_memory("512MiB", reserved=100 * MEBIBYTE)


@pytest.mark.parametrize("text", ["512MiB", "1GB", "4GB", "64GB"])
def test_what_is_sorted_at_a_time_fits_beside_the_program(text):
    memory = parse_memory(text)
    assert 0 < memory.rows * ROW <= memory.size - PROGRAM
    assert MEBIBYTE <= memory.chunk_bytes <= 16 * MEBIBYTE
    assert parse_memory(text, reserved=0).rows == memory.rows
