"""A killed command leaves nothing half-written under its final name, and the next one cleans up after it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.logs import write_log
from training.dataset import Dataset
from training.prepare import prepare
from training.run import Run
from training.train import train

FAST = ["--set", "requests_per_batch=2", "--set", "embedding_width=8", "--set", "history_length=20"]
LONG = ["--set", "epochs=1000", "--set", "patience=1000"]
WAIT_S = 60


def _kill_half_way(arguments: list[str], target: Path, *, how: int) -> int:
    """Start a command, wait for its unfinished folder beside `target`, then send the signal."""
    command = [sys.executable, "-m", "cli", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    until = time.monotonic() + WAIT_S
    while not any(target.parent.glob(f".{target.name}.*/*")):
        assert time.monotonic() < until, "it never began to write"
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(how)
    process.communicate()
    return process.returncode


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_stopped_training_leaves_no_run(tmp_path: Path, how: int) -> None:
    prepare(write_log(tmp_path / "log"), tmp_path / "dataset")
    run = tmp_path / "runs" / "tin"
    run.parent.mkdir()
    arguments = ["train", str(tmp_path / "dataset"), str(run), "--model", "tin", *FAST, *LONG]
    code = _kill_half_way(arguments, run, how=how)
    # CPython ends by the signal itself where Ctrl-C met it inside an exec() of some import: a shell says 130 to both
    assert code in ({130, -signal.SIGINT} if how == signal.SIGINT else {-signal.SIGKILL})
    assert not run.exists()
    train(tmp_path / "dataset", run, model="popularity")
    assert Run.load(run).model_name == "popularity"
    assert [path.name for path in run.parent.iterdir()] == ["tin"]


def test_a_killed_prepare_keeps_the_old_dataset(tmp_path: Path) -> None:
    dataset = tmp_path / "data" / "d"
    dataset.parent.mkdir()
    before = prepare(write_log(tmp_path / "log"), dataset)["fingerprint"]
    larger = write_log(tmp_path / "larger", users=2000, seed=1)
    code = _kill_half_way(["prepare", str(larger), str(dataset)], dataset, how=signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert Dataset.open(dataset).fingerprint == before
