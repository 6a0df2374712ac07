"""Two processes, started by torchrun, train what one process trains."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from contract.errors import InputError
from tests.support.logs import write_log
from training.dataset import Dataset
from training.fit.work import has_position, work_path
from training.prepare import prepare
from training.run import Run
from training.train import train

FAST = {"embedding_width": 8, "history_length": 20, "epochs": 1, "learning_rate": 0.01}
BY_ROW = {"embedding_l2": 1e-3}
"""Trains the small tables of these tests by row, as larger ones would be without it."""
WAIT_S = 90


@pytest.fixture(name="dataset", scope="module")
def _dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    prepare(write_log(folder / "log"), folder / "d")
    return folder / "d"


def _torchrun(
    dataset: Path, run: Path, *, model: str, settings: dict[str, Any], more: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    values = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    command = ["train", str(dataset), str(run), "--model", model, *values, *more]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*launcher, "-m", "cli", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _lines(run: Path, kind: str) -> list[dict[str, Any]]:
    every = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in every if kind in line]


@pytest.mark.parametrize(
    ("model", "more"),
    [("tin", BY_ROW), ("din", {"attention_activation": "prelu", "head_activation": "prelu", **BY_ROW})],
    ids=["tin", "din with PReLU"],
)
def test_two_processes_have_the_loss_curve_of_one(
    dataset: Path, tmp_path: Path, model: str, more: dict
) -> None:
    requests = len(Dataset.open(dataset).requests_of("train"))
    odd = next(n for n in range(3, 60) if requests % n == 1)  # the last batch leaves one process empty-handed
    settings = {**FAST, **more, "requests_per_batch": odd}
    process = _torchrun(dataset, tmp_path / "two", model=model, settings=settings)
    said = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, said[1]
    one = train(dataset, tmp_path / "one", model=model, settings=settings)
    losses = [[line["loss"] for line in _lines(tmp_path / name, "step")] for name in ("one", "two")]
    assert len(losses[0]) > 20
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert losses[1][0] > losses[1][-1]
    two = Run.load(tmp_path / "two")
    assert two.metrics["validation"]["gauc"] == pytest.approx(one["metrics"]["validation"]["gauc"], abs=1e-3)
    assert two.provenance["processes"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_an_environment_of_several_processes_without_torchrun_is_refused(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="WORLD_SIZE is 2, but RANK is not set: torchrun did not start"):
        train(dataset, tmp_path / "run", model="tin", settings=FAST)
    assert list(tmp_path.iterdir()) == []


def test_dice_is_refused_since_its_statistics_are_those_of_a_batch(dataset: Path, tmp_path: Path) -> None:
    settings = {**FAST, "attention_activation": "dice"}
    process = _torchrun(dataset, tmp_path / "run", model="din", settings=settings)
    _, said = process.communicate(timeout=WAIT_S)
    assert process.returncode != 0
    assert "error: activation dice needs the statistics of the whole batch" in said
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_dies_ends_the_training_and_leaves_a_position(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = {**FAST, "epochs": 1000, "patience": 1000, "requests_per_batch": 7}
    process = _torchrun(dataset, run, model="tin", settings=settings, more=("--save-every", "0"))
    until = time.monotonic() + WAIT_S
    while not has_position(run):
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    second = next(
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.environ().get("RANK") == "1"
    )
    second.kill()
    process.communicate(timeout=WAIT_S)
    assert process.returncode != 0
    assert not run.exists()
    assert has_position(run)
    assert [path for path in tmp_path.iterdir() if path != work_path(run)] == []
