"""How much is read and sorted at a time under `--memory`."""

import pytest

from contract.errors import InputError
from training.importers.memory import MEBIBYTE, MEGABYTE, PROGRAM, ROW, memory_of


def test_too_little_is_refused_with_the_least():
    with pytest.raises(InputError, match=r"--memory 400,000,000 bytes is too little; give 500MB or more"):
        memory_of(400 * MEGABYTE)
    with pytest.raises(InputError, match="give 600MB or more"):
        memory_of(599 * MEGABYTE, reserved=100 * MEGABYTE)


@pytest.mark.parametrize("size", [500, 1000, 4000, 64_000])
def test_what_is_sorted_at_a_time_fits_beside_the_program(size):
    memory = memory_of(size * MEGABYTE)
    assert 0 < memory.rows * ROW <= memory.size - PROGRAM
    assert MEBIBYTE <= memory.chunk_bytes <= 16 * MEBIBYTE


def test_what_is_reserved_is_not_spent_on_rows():
    assert memory_of(900 * MEGABYTE, reserved=400 * MEGABYTE).rows == memory_of(500 * MEGABYTE).rows
