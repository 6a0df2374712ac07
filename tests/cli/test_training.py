"""`longsight train` as a user calls it: the run, and the page beside it."""

import errno
from pathlib import Path

import pytest

from cli.main import run
from tests.support.logs import write_log
from training.prepare import prepare
from training.report import write

FAST = [
    "--model",
    "mean_pool",
    "--set",
    "epochs=1",
    "--set",
    "history_length=5",
    "--set",
    "embedding_width=4",
]


@pytest.fixture(name="dataset", scope="module")
def _dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    write_log(folder / "log")
    prepare(folder / "log", folder / "dataset")
    return folder / "dataset"


def test_a_trained_run_has_a_report_beside_it(dataset, tmp_path):
    assert run(["train", str(dataset), str(tmp_path / "run"), *FAST]) == 0

    assert "<h1>" in (tmp_path / "run" / "report.html").read_text()


def test_the_report_can_be_left_out(dataset, tmp_path):
    assert run(["train", str(dataset), str(tmp_path / "run"), *FAST, "--no-report"]) == 0

    assert (tmp_path / "run" / "run.json").exists()
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_report_that_fails_says_so_and_leaves_the_run(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(write, "FILE", "missing/report.html" + "x" * 300)

    assert run(["train", str(dataset), str(tmp_path / "run"), *FAST]) == 0

    assert "is trained, but has no report" in capsys.readouterr().err
    assert (tmp_path / "run" / "run.json").exists()


def test_a_disk_too_full_for_the_report_leaves_the_run(dataset, tmp_path, monkeypatch, capsys):
    def no_room(**_page):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(write, "render", no_room)

    assert run(["train", str(dataset), str(tmp_path / "run"), *FAST]) == 0

    assert "is trained, but has no report: [Errno 28] No space left on device" in capsys.readouterr().err
    assert (tmp_path / "run" / "run.json").exists()
