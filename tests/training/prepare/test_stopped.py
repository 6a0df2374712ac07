"""A stopped `prepare` goes on where it was, and ends in the very bytes of one that was never stopped."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.errors import DatasetError, LogError, LongsightError
from contract.files import claimed_folder
from tests.support.logs import write_log
from training.dataset import Dataset
from training.prepare import Sizes, prepare

ROOT = Path(__file__).parents[3]
SIZES = Sizes(
    800, 900, 2
)  # of a log of about 1,700 behaviours and 2,900 impressions: chunks 3 and 4, parts 4
WAIT_S = 60
LABELS = {
    "users": "reading users",
    "impressions": "reading impressions",
    "shown": "grouping requests",
    "behaviors": "reading behaviours",
    "people": "sorting histories",
}
PROGRAM = """
import resource, sys
from pathlib import Path
from contract.errors import LongsightError
from training.prepare import Sizes, prepare
limit = int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    prepare(Path(sys.argv[1]), Path(sys.argv[2]), sizes=Sizes(800, 900, 2))
except LongsightError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.fixture(name="log", scope="module")
def _log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("stopped") / "log", users=30)


@pytest.fixture(name="whole", scope="module")
def _whole(log: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of a dataset that was made without a stop."""
    path = tmp_path_factory.mktemp("whole") / "d"
    prepare(log, path)
    return content(path)


@pytest.fixture(name="old", scope="module")
def _old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the dataset of another log, to be replaced."""
    folder = tmp_path_factory.mktemp("old")
    prepare(write_log(folder / "log", users=20, seed=5), folder / "d")
    return folder / "d"


def content(folder: Path) -> dict[str, bytes]:
    """Return the bytes of a folder's files."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def started(log: Path, dataset: Path, *, limit: int = 0) -> "subprocess.Popen[str]":
    """Start a process that prepares; no file of it may grow over `limit` bytes."""
    command = [sys.executable, "-c", PROGRAM, str(log), str(dataset), str(limit)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def stopped_at(log: Path, dataset: Path, sign: str, *, how: int = signal.SIGKILL) -> None:
    """Run `prepare` until something that matches `sign` stands beside the dataset, then send the signal."""
    with started(log, dataset) as process:
        until = time.monotonic() + WAIT_S
        while not any(dataset.parent.glob(sign)):
            assert process.poll() is None, f"it ended before there was {sign}: {process.communicate()[1]}"
            assert time.monotonic() < until, f"no {sign}"
        process.send_signal(how)


@pytest.mark.parametrize(
    "sign",
    [
        ".d.prepare/impressions-000001",
        ".d.prepare/shown-000000",
        ".d.prepare/.behaviors-000001*/events.parquet",
        ".d.prepare/people-000000",
        ".d.*.tmp/requests.npy",
    ],
)
def test_a_killed_prepare_goes_on_from_what_is_finished(
    log: Path, old: Path, whole: dict[str, bytes], tmp_path: Path, sign: str
) -> None:
    dataset = tmp_path / "d"
    shutil.copytree(old, dataset)
    stopped_at(log, dataset, sign)
    assert content(dataset) == content(old)
    finished = Counter(path.name.split("-")[0] for path in (tmp_path / ".d.prepare").glob("[a-z]*-*"))
    found: dict[str, int] = {}
    prepare(log, dataset, sizes=SIZES, progress=lambda done, _total, label: found.setdefault(label, done))
    assert content(dataset) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    assert finished["users"] or finished["people"] == 4
    for kind, label in LABELS.items():
        if label in found:  # with all parts there, nothing before them is looked at
            assert found[label] == finished[kind]
        else:
            assert finished["people"] == 4


def test_after_ctrl_c_it_goes_on_too(log: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    stopped_at(log, tmp_path / "d", ".d.prepare/behaviors-000000", how=signal.SIGINT)
    kept = {path.name for path in (tmp_path / ".d.prepare").iterdir()}
    assert {"behaviors-000000", "shown-000001"} <= kept
    with pytest.raises(DatasetError, match="no such file"):  # what is unfinished is no dataset
        Dataset.open(tmp_path / ".d.prepare")
    prepare(log, tmp_path / "d", sizes=SIZES)
    assert content(tmp_path / "d") == whole


def test_another_log_or_flag_starts_afresh(log: Path, tmp_path: Path) -> None:
    copy = tmp_path / "log"
    shutil.copytree(log, copy)
    stopped_at(copy, tmp_path / "d", ".d.prepare/people-000000")
    write_log(copy, users=29, seed=9)
    fresh = prepare(copy, tmp_path / "fresh", history_lag_s=7)["fingerprint"]
    assert prepare(copy, tmp_path / "d", history_lag_s=7, sizes=SIZES)["fingerprint"] == fresh


def test_two_at_once_do_not_disturb_each_other(log: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    processes = [started(log, tmp_path / "d") for _ in range(2)]
    errors = [process.communicate()[1] for process in processes]
    assert 0 in [process.returncode for process in processes]
    for process, error in zip(processes, errors, strict=True):
        assert process.returncode == 0 or "another prepare is writing it" in error
    assert content(tmp_path / "d") == whole


def test_a_second_prepare_of_the_same_dataset_is_refused(log: Path, tmp_path: Path) -> None:
    with claimed_folder(tmp_path / ".d.prepare"):
        (tmp_path / ".d.prepare" / "piece").write_text("another's")
        with pytest.raises(DatasetError, match="another prepare is writing it"):
            prepare(log, tmp_path / "d")
        assert (tmp_path / ".d.prepare" / "piece").exists()


def test_a_log_that_changes_meanwhile_is_refused(log: Path, tmp_path: Path) -> None:
    copy = tmp_path / "log"
    shutil.copytree(log, copy)

    def touch(_done: int, _total: int | None, label: str) -> None:
        if label == "writing arrays":
            os.utime(copy / "behaviors.parquet")

    with pytest.raises(LogError, match="changed while it was read"):
        prepare(copy, tmp_path / "d", progress=touch)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


@pytest.mark.parametrize("limit", [20_000, 45_000], ids=["while reading", "while joining the parts"])
def test_a_disk_without_room_is_named_and_the_rest_is_done_later(
    log: Path, old: Path, whole: dict[str, bytes], tmp_path: Path, limit: int
) -> None:
    shutil.copytree(old, tmp_path / "d")
    with started(log, tmp_path / "d", limit=limit) as process:
        error = process.communicate()[1]
    assert error.startswith(f"LongsightError: {tmp_path}: can't write more (File too large); free space")
    assert error.count("\n") == 1
    assert content(tmp_path / "d") == content(old)
    assert (tmp_path / ".d.prepare" / "plan.json").exists()
    prepare(log, tmp_path / "d", sizes=SIZES)
    assert content(tmp_path / "d") == whole


@pytest.fixture(name="small_disk")
def _small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder on a file system of 300 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_named_and_the_rest_is_done_later(
    log: Path, whole: dict[str, bytes], small_disk: Path
) -> None:
    with pytest.raises(LongsightError, match=rf"{re.escape(str(small_disk))}: can't write more \(No space"):
        prepare(log, small_disk / "d", sizes=SIZES)
    assert (small_disk / ".d.prepare" / "plan.json").exists()
    subprocess.run(["mount", "-o", "remount,size=9m", str(small_disk)], check=True)
    prepare(log, small_disk / "d", sizes=SIZES)
    assert content(small_disk / "d") == whole
