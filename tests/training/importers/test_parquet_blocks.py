"""Parquet files written piece by piece: the bytes, a full disk, Ctrl-C."""

import resource
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

from contract.errors import LogError, LongsightError
from training.importers import parquet_blocks
from training.importers.parquet_blocks import write_blocks

SCHEMA = pl.Schema({"x": pl.Int64, "name": pl.String})
REPOSITORY = Path(__file__).parents[3]


def frame(start, end):
    return pl.DataFrame({"x": range(start, end), "name": [f"n{x}" for x in range(start, end)]}, schema=SCHEMA)


def written(path, cuts):
    write_blocks(path, SCHEMA, [frame(*pair) for pair in pairwise(cuts)])
    return path.read_bytes()


def test_the_bytes_do_not_depend_on_the_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_blocks, "ROW_GROUP", 100)
    whole = written(tmp_path / "a", [0, 1050])
    assert written(tmp_path / "b", [0, 1, 1, 99, 100, 350, 777, 1050]) == whole
    assert pl.read_parquet(tmp_path / "b").equals(frame(0, 1050))


def test_no_rows_make_a_file_of_no_rows(tmp_path):
    write_blocks(tmp_path / "a", SCHEMA, [])
    assert pl.read_parquet(tmp_path / "a").schema == SCHEMA


def test_an_error_of_the_frames_comes_through_as_it_is(tmp_path):
    def frames():
        yield frame(0, 10)
        raise LogError("line 3: bad")

    with pytest.raises(LogError, match=r"^line 3: bad$"):
        write_blocks(tmp_path / "a", SCHEMA, frames())


def test_a_parquet_file_that_finds_no_room_is_one_line(tmp_path):
    """A limit on the size of files stands in for the full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(LongsightError, match=r"^a can't be written: .*File too large"):
            write_blocks(tmp_path / "a", SCHEMA, [frame(0, 100_000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


CHILD = """
import sys, time
from pathlib import Path
import polars as pl
from training.importers.parquet_blocks import write_blocks
schema = pl.Schema({"x": pl.Int64})
def frames():
    for turn in range(10_000):
        if turn == 3:
            print("ready", flush=True)
        time.sleep(0.02)
        yield pl.DataFrame({"x": range(1000)}, schema=schema)
try:
    write_blocks(Path(sys.argv[1]), schema, frames())
except KeyboardInterrupt:
    time.sleep(0.1)  # a second interrupt would come up here
    sys.exit(77)
"""


def test_ctrl_c_while_writing_interrupts_once(tmp_path):
    command = [sys.executable, "-c", CHILD, str(tmp_path / "a")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY) as child:
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=60) == 77
