"""An unfinished training goes on to the exact step, however it ended."""

import errno
import json
import math
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from contract.errors import InputError, LongsightError, RunError
from tests.support.logs import write_log
from training import finish
from training.dataset import Dataset
from training.fit.step import TrainStep
from training.fit.stop import StoppedError
from training.fit.trainer import Trainer
from training.fit.work import read_position, work_folder, work_path
from training.prepare import prepare
from training.run import Run
from training.train import train

FAST = {"requests_per_batch": 4, "embedding_width": 8, "history_length": 20, "epochs": 2, "patience": 9}
FAST |= {"embedding_l2": 1e-3}  # trains these small tables by row, as larger ones would be without it
WAIT_S = 60


@pytest.fixture(name="dataset", scope="module")
def _dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    prepare(write_log(folder / "log"), folder / "d")
    return folder / "d"


def _command(dataset: Path, run: Path, *more: str, settings: dict[str, object] | None = None) -> list[str]:
    values = [part for name, value in (settings or FAST).items() for part in ("--set", f"{name}={value}")]
    return [sys.executable, "-m", "cli", "train", str(dataset), str(run), "--model", "tin", *values, *more]


def _stop_mid_epoch(command: list[str], run: Path, *, how: int) -> tuple[int, str]:
    """Start a training, wait until it has saved a position after some steps, send the signal."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    journal, until = work_path(run) / "metrics.jsonl", time.monotonic() + WAIT_S
    while not (journal.is_file() and journal.read_text().count('"step"') >= 20):
        assert time.monotonic() < until, "it never began"
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(how)
    said = process.communicate()[1]
    return process.returncode, said


def _never() -> None:
    raise AssertionError("an unfinished training was dropped")


def _same_weights(a: Path, b: Path) -> bool:
    first, second = Run.load(a).model.state_dict(), Run.load(b).model.state_dict()
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "TERM"])
def test_a_stopped_training_resumes_to_bit_identical_weights(dataset: Path, tmp_path: Path, how: int) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    every = ["--save-every", "0"] if how == signal.SIGKILL else []
    code, said = _stop_mid_epoch(_command(dataset, run, *every), run, how=how)
    assert not run.exists()
    assert code == (143 if how == signal.SIGTERM else -how)
    if how == signal.SIGTERM:
        assert "--resume goes on from there" in said
    record = train(dataset, run, model="tin", settings=dict(FAST), resume=True)
    straight = train(dataset, whole, model="tin", settings=dict(FAST))
    assert _same_weights(run, whole)
    assert record["metrics"] == straight["metrics"]
    assert not work_path(run).exists()
    lines, expected = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (run, whole)
    )
    for line in (*lines, *expected):
        line.pop("seconds", None), line.pop("train_seconds", None)
    assert lines == expected


@pytest.fixture(name="stopped")
def _stopped(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run whose training was stopped after 10 steps."""
    _stop_after(10, monkeypatch)
    with pytest.raises(StoppedError):
        train(dataset, tmp_path / "run", model="tin", settings=dict(FAST))
    return tmp_path / "run"


def _stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TrainStep.step

    def stopping(step: TrainStep, batch: object) -> float:
        loss = whole(step, batch)
        if step.taken == steps:
            signal.raise_signal(signal.SIGTERM)
        return loss

    monkeypatch.setattr(TrainStep, "step", stopping)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"settings": {**FAST, "learning_rate": 0.5}}, r"setting.learning_rate was 0.002 .* is 0.5 now"),
        ({"settings": {**FAST, "embedding_width": 16}}, r"setting.embedding_width was 8 .* is 16 now"),
        ({"seed": 7}, "seed was 0 .* is 7 now"),
        ({"model": "mean_pool"}, "model was tin .* is mean_pool now"),
        ({"model": "popularity", "settings": {}}, "model was tin .* is popularity now"),
    ],
)
def test_another_training_is_not_resumed(dataset: Path, stopped: Path, changed: dict, message: str) -> None:
    given = {"model": "tin", "settings": dict(FAST), **changed}
    with pytest.raises(InputError, match=message):
        train(dataset, stopped, resume=True, **given)
    assert train(dataset, stopped, model="tin", settings=dict(FAST), resume=True)["best_epoch"] >= 0


def test_another_dataset_is_not_resumed(stopped: Path, tmp_path: Path) -> None:
    prepare(write_log(tmp_path / "log", seed=5), tmp_path / "other")
    with pytest.raises(InputError, match="the dataset's fingerprint was"):
        train(tmp_path / "other", stopped, model="tin", settings=dict(FAST), resume=True)


def test_without_resume_an_unfinished_training_is_dropped_and_said_so(dataset: Path, stopped: Path) -> None:
    said: list[str] = []
    train(dataset, stopped, model="popularity", say=said.append)
    assert len(said) == 1
    assert "unfinished training is dropped" in said[0]
    assert [path.name for path in stopped.parent.iterdir()] == ["run"]


def test_a_refused_command_drops_no_unfinished_training(dataset: Path, stopped: Path) -> None:
    said: list[str] = []
    with pytest.raises(InputError, match="activation 'oops' is unknown"):
        train(dataset, stopped, model="tin", settings={**FAST, "head_activation": "oops"}, say=said.append)
    train(dataset, stopped, model="tin", settings=dict(FAST), resume=True, say=said.append)
    assert said == []


def test_a_position_counts_no_lines_that_a_resume_dropped(stopped: Path) -> None:
    with work_folder(stopped, dropped=_never) as work:
        kept = work.journal.stat().st_size
        work.write_line({"step": 10**6})
        work.rewind(kept)
        work.save({}, {}, {})
        assert read_position(stopped, {})[1] == work.journal.stat().st_size == kept


def test_what_was_being_written_when_a_process_died_is_removed(dataset: Path, stopped: Path) -> None:
    left = work_path(stopped) / ".position.pt.0123.tmp"
    left.touch()
    with pytest.raises(InputError, match="seed was 0"):
        train(dataset, stopped, model="tin", settings=dict(FAST), seed=3, resume=True)
    assert not left.exists()


def test_another_content_of_init_from_is_not_resumed(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, run = tmp_path / "first", tmp_path / "run"
    given = {"model": "tin", "settings": dict(FAST)}
    train(dataset, first, **given)
    with monkeypatch.context() as stopping:
        _stop_after(10, stopping)
        with pytest.raises(StoppedError):
            train(dataset, run, init_from=first, **given)
    train(dataset, first, seed=1, **given)
    with pytest.raises(InputError, match=r"the sha256 of --init-from's run\.json was"):
        train(dataset, run, init_from=first, resume=True, **given)


def test_a_signal_after_the_last_score_still_stops_and_resume_only_writes(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, validate = tmp_path / "run", Trainer._validate

    def signalled(trainer: Trainer, loss: float) -> bool:
        better = validate(trainer, loss)
        signal.raise_signal(signal.SIGTERM)
        return better

    monkeypatch.setattr(Trainer, "_validate", signalled)
    with pytest.raises(StoppedError):
        train(dataset, run, model="tin", settings={**FAST, "epochs": 1})
    assert not run.exists()
    train(dataset, run, model="tin", settings={**FAST, "epochs": 1}, resume=True)
    assert Run.load(run).record["stopped"] == "last epoch"


def test_with_nothing_to_resume_training_begins_and_says_so(dataset: Path, tmp_path: Path) -> None:
    said: list[str] = []
    train(dataset, tmp_path / "run", model="popularity", resume=True, say=said.append)
    assert len(said) == 1
    assert "nothing to resume" in said[0]


@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04 nothing"])
def test_a_damaged_position_is_named(dataset: Path, stopped: Path, content: bytes) -> None:
    (work_path(stopped) / "position.pt").write_bytes(content)
    with pytest.raises(RunError, match=r"position.pt: damaged"):
        train(dataset, stopped, model="tin", settings=dict(FAST), resume=True)


def test_a_run_that_is_being_trained_is_left_alone(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with work_folder(run, dropped=_never) as work:
        work.write_line({"step": 1})
        with pytest.raises(InputError, match="another process is training it"):
            train(dataset, run, model="popularity")
        assert work.journal.read_text() == '{"step": 1}\n'


def test_a_loss_that_breaks_after_a_resume_keeps_the_best_epoch(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole = tmp_path / "run", TrainStep.step
    steps_an_epoch = math.ceil(len(Dataset.open(dataset).requests_of("train")) / FAST["requests_per_batch"])

    def breaking(step: TrainStep, batch: object) -> float:
        loss = whole(step, batch)
        if step.taken == steps_an_epoch + 5 and not (tmp_path / "seen").exists():
            (tmp_path / "seen").touch()
            signal.raise_signal(signal.SIGTERM)
        return float("nan") if step.taken == steps_an_epoch + 9 else loss

    monkeypatch.setattr(TrainStep, "step", breaking)
    with pytest.raises(StoppedError):
        train(dataset, run, model="tin", settings=dict(FAST))
    with pytest.raises(LongsightError, match=r"not a number in epoch 2.*kept the checkpoint of epoch 1"):
        train(dataset, run, model="tin", settings=dict(FAST), resume=True)
    assert Run.load(run).record["best_epoch"] == 0
    assert not work_path(run).exists()


def test_a_disk_that_is_full_keeps_the_old_run(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(dataset, run, model="popularity")
    before = (run / "run.json").read_bytes()

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # files can't grow: like a disk that is full

    ended = subprocess.run(
        _command(dataset, run), capture_output=True, text=True, check=False, preexec_fn=no_room
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(f"error: {run} can't be written: File too large")
    assert len([line for line in ended.stderr.splitlines() if "error" in line]) == 1
    assert (run / "run.json").read_bytes() == before
    assert Run.load(run).model_name == "popularity"


def test_a_disk_that_is_full_before_anything_is_kept_leaves_nothing(dataset: Path, tmp_path: Path) -> None:
    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))  # the first lines of metrics.jsonl fill it

    ended = subprocess.run(
        _command(dataset, tmp_path / "run"), capture_output=True, text=True, check=False, preexec_fn=no_room
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].endswith("File too large; nothing was written")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_could_not_be_written_is_written_by_resume_without_training_again(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def no_room(*_given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(finish, "write_encoder", no_room)
        with pytest.raises(
            LongsightError, match="No space left on device; make room and go on with --resume"
        ):
            train(dataset, run, model="tin", settings=dict(FAST))
    assert not run.exists()
    monkeypatch.setattr(TrainStep, "step", no_room)
    train(dataset, run, model="tin", settings=dict(FAST), resume=True)
    assert Run.load(run).record["stopped"] == "last epoch"
