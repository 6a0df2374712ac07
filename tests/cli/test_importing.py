"""`longsight import` as a program: what it prints, how it ends, and what an unhappy end leaves behind."""

import json
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from cli.main import run
from tests.training.importers.raw_files import (
    KUAIRAND,
    MOVIELENS,
    TAOBAO_AD,
    meta,
    reviews,
    user_behavior,
    write,
)

REPOSITORY = Path(__file__).parents[2]
AMAZON = {"reviews_Electronics_5.json": reviews(), "meta_Electronics.json": meta()}
SOURCES = {
    "taobao-ad": (TAOBAO_AD, []),
    "taobao-behavior": ({"UserBehavior.csv": user_behavior()}, ["--min-history", "3"]),
    "kuairand": (KUAIRAND, []),
    "movielens": (MOVIELENS, []),
    "amazon": (AMAZON, ["--protocol", "din"]),
}


@pytest.mark.parametrize("source", SOURCES)
def test_an_import_tells_its_counts_and_its_progress(tmp_path, capsys, source):
    files, flags = SOURCES[source]
    raw = write(tmp_path / "raw", files)
    assert run(["import", source, str(raw), str(tmp_path / "log"), *flags, "--json"]) == 0
    told = capsys.readouterr()
    report = json.loads(told.out.splitlines()[-1])
    assert report["behaviors"] == len(pl.read_parquet(tmp_path / "log" / "behaviors.parquet"))
    assert "reading " in told.err
    names = {path.name for path in (tmp_path / "log").iterdir()}
    wanted = {"behaviors.parquet", "impressions.parquet", "ads.parquet", "schema.toml"}
    assert names - {"users.parquet"} == wanted


@pytest.mark.parametrize("source", SOURCES)
def test_an_imported_log_is_prepared(tmp_path, capsys, source):
    files, flags = SOURCES[source]
    raw = write(tmp_path / "raw", files)
    assert run(["import", source, str(raw), str(tmp_path / "log"), *flags]) == 0
    assert run(["prepare", str(tmp_path / "log"), str(tmp_path / "dataset")]) == 0


@pytest.mark.parametrize("source", SOURCES)
def test_a_folder_of_something_else_is_one_line_and_exit_2(tmp_path, capsys, source):
    raw = write(tmp_path / "raw", {"readme.txt": "nothing"})
    assert run(["import", source, str(raw), str(tmp_path / "log")]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith(f"error: {raw}/")
    assert "no such file" in told[-1]
    assert len(told) == 1


@contextmanager
def small_disk(size):
    """Let no file grow beyond `size` bytes: as good as a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def longer(source):
    """Return a data set with some thousand behaviours, enough to fill a small disk."""
    files = dict(SOURCES[source][0])
    if source == "taobao-ad":
        files["behavior_log.csv"] += "".join(f"7,{1493000000 + row},pv,8282,87331\n" for row in range(3000))
    elif source == "taobao-behavior":
        files["UserBehavior.csv"] += "".join(f"8,101,2,pv,{1511540000 + row}\n" for row in range(3000))
    return files


@pytest.mark.parametrize(
    ("source", "size"),
    [("taobao-ad", 50), ("taobao-ad", 40_000), ("taobao-behavior", 40_000), ("amazon", 50)],
    ids=["first file", "while sorting", "while sorting behaviours", "amazon"],
)
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, capsys, source, size):
    raw = write(tmp_path / "raw", longer(source))
    with small_disk(size):
        code = run(["import", source, str(raw), str(tmp_path / "log"), *SOURCES[source][1]])
    assert code == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert "can't be written" in told
    assert "File too large" in told
    assert "Traceback" not in told
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


CHILD = """
import os, signal, sys, time
from pathlib import Path
from training.importers.{module} import import_{module}
def strike(done, total, label):
    if label.startswith({label!r}):
        os.kill(os.getpid(), signal.SIGINT)
try:
    import_{module}(Path(sys.argv[1]), Path(sys.argv[2]), progress=strike)
except KeyboardInterrupt:
    time.sleep(0.1)
    sys.exit(77)
"""


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ("taobao-ad", "reading raw_sample"),
        ("taobao-ad", "reading behavior_log"),
        ("taobao-ad", "sorting behavior_log"),
        ("taobao-behavior", "sorting UserBehavior"),
        ("amazon", "reading meta"),
    ],
)
def test_ctrl_c_leaves_nothing(tmp_path, source, label):
    raw = write(tmp_path / "raw", longer(source))
    script = CHILD.format(module=source.replace("-", "_"), label=label)
    command = [sys.executable, "-c", script, str(raw), str(tmp_path / "log")]
    ended = subprocess.run(command, cwd=REPOSITORY, timeout=60, check=False, capture_output=True)
    assert ended.returncode == 77, ended.stderr.decode()
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
