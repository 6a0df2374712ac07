"""`longsight export` and `longsight evaluate` as a user calls them, with and without a student."""

import json

import pytest

from cli.main import run
from tests.support.tiny import tiny_run
from training.distill import distilled
from training.run import Run


@pytest.mark.parametrize("command", [["export", "RUN", "BUNDLE"], ["evaluate", "RUN"]])
def test_a_model_that_generates_nothing_has_no_distilled_form(command, tmp_path, capsys):
    places = {"RUN": str(tiny_run(tmp_path)), "BUNDLE": str(tmp_path / "bundle")}
    words = [places.get(word, word) for word in command]
    assert run([*words, "--diffusion", "distilled"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: --diffusion distilled: ")
    assert error.endswith("is a run of tin, which generates no interests; leave --diffusion out")
    assert not (tmp_path / "bundle").exists()


def test_variant_d_has_no_distilled_form(tmp_path, capsys):
    dataset = Run.load(tiny_run(tmp_path)).dataset().path
    settings = ["--set", "history_length=12", "--set", "epochs=1", "--set", "diffusion=false"]
    train = ["train", str(dataset), str(tmp_path / "d"), "--model", "diffumin", "--no-report", *settings]
    assert run(train) == 0
    assert run(["export", str(tmp_path / "d"), str(tmp_path / "bundle"), "--diffusion", "distilled"]) == 2
    assert "was trained with diffusion=false, so there is nothing to distill" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_another_way_than_the_two_is_wrong_usage(tmp_path, capsys):
    assert run(["export", str(tmp_path), str(tmp_path / "bundle"), "--diffusion", "rolled"]) == 2
    assert "'rolled' is not one of" in capsys.readouterr().err


def test_a_student_is_judged_once_it_is_kept(tmp_path, capsys):
    teacher = tiny_run(tmp_path, "diffumin")
    judge = ["evaluate", str(teacher), "--diffusion", "distilled", "--json"]
    assert run(judge) == 2
    assert "no such folder; run `longsight export" in capsys.readouterr().err
    report = distilled(Run.load(teacher)).report
    assert run(judge) == 0
    judged = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert judged["gauc"] == report["student"]["gauc"]
    assert run([*judge[:2], "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["gauc"] == report["teacher"]["gauc"]
