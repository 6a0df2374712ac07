"""What holds for every command: help, exit codes, one line per error, nothing imported early."""

import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from cli.extras import OPTIONAL_MODULES, MissingExtraError, extras
from cli.main import build_app, run

REPOSITORY = Path(__file__).parents[2]


def walk(group, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from walk(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(walk(typer.main.get_command(build_app())))
DESIGNED = {
    ("import", "complete-journey"),
    ("import", "taobao-ad"),
    ("import", "taobao-behavior"),
    ("import", "kuairand"),
    ("import", "movielens"),
    ("import", "amazon"),
    ("prepare",),
    ("train",),
    ("evaluate",),
    ("export",),
    ("bundle", "show"),
    ("bundle", "verify"),
    ("load",),
    ("serve",),
    ("replay",),
    ("demo",),
}


def test_every_promised_command_is_there():
    assert set(COMMANDS) >= DESIGNED


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example_that_parses(path, capsys):
    assert run([*path, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    command = COMMANDS[path]
    example = command.epilog.removeprefix("Example: ")
    assert f"Example: {example}" in shown
    words = shlex.split(example)
    assert words[: 1 + len(path)] == ["longsight", *path]
    command.make_context(path[-1], words[1 + len(path) :])  # raises if a flag or value is not accepted


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_is_explained(path):
    silent = [p.name for p in COMMANDS[path].params if not getattr(p, "help", None)]
    assert not silent


def test_the_program_without_arguments_shows_its_help(capsys):
    assert run([]) == 0
    assert "Usage: longsight" in capsys.readouterr().out


def test_version_is_shown(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("longsight 0.")


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["fly"], id="unknown command"),
        pytest.param(["import"], id="half a command"),
        pytest.param(["prepare", "log"], id="argument missing"),
        pytest.param(["prepare", "log", "out", "--split"], id="unknown flag"),
        pytest.param(["prepare", "log", "out", "--test-from", "soon"], id="bad time"),
        pytest.param(["prepare", "log", "out", "--memory", "4 bananas"], id="bad size"),
        pytest.param(["prepare", "log", "out", "--memory", "4MB"], id="too little memory"),
        pytest.param(["evaluate", "run", "--split", "train"], id="bad choice"),
        pytest.param(["train", "dataset", "run"], id="model missing"),
        pytest.param(["train", "dataset", "run", "--model", "din", "--set", "epochs"], id="bad setting"),
        pytest.param(["load", "log", "--redis", "redis://h", "--embedded"], id="two stores"),
        pytest.param(["serve", "b", "--redis", "redis://h", "--embedded-dir", "d"], id="two stores to serve"),
        pytest.param(
            ["train", "dataset", "run", "--model", "din", "--seed", str(2**64)], id="a seed too large"
        ),
        pytest.param(["prepare", "/nowhere/log", "out"], id="no such log"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(words, capsys):
    assert run(words) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in captured.err
    assert not captured.out


def test_a_traceback_is_shown_with_debug_wherever_it_stands(capsys):
    for words in (["--debug", "prepare", "/nowhere", "out"], ["prepare", "/nowhere", "out", "--debug"]):
        assert run(words) == 2
        captured = capsys.readouterr()
        assert "Traceback" in captured.err
        assert captured.err.splitlines()[-1].startswith("error: /nowhere")


def test_an_unforeseen_failure_is_one_line_and_exit_1(log, predictions, capsys):
    predictions.unlink()
    (log / "schema.toml").chmod(0)
    (log / "schema.toml").unlink()
    (log / "schema.toml").mkdir()  # a folder where a file is expected
    code = run(["replay", str(log), "--url", "http://127.0.0.1:9", "--predictions", str(predictions)])
    error = capsys.readouterr().err
    assert code in {1, 2}
    assert error.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in error


def test_interrupting_ends_with_130(log, predictions):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        words = ["replay", str(log), "--url", url, "--predictions", str(predictions)]
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", *words], cwd=REPOSITORY, stderr=subprocess.PIPE
        )
        silent.settimeout(30)
        connection, _ = silent.accept()  # it waits for an answer now
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
        connection.close()
    assert process.returncode == 130
    assert b"Traceback" not in error


def test_a_missing_extra_is_named():
    with (
        pytest.raises(MissingExtraError, match=r"pip install 'longsight\[train,serve\]'"),
        extras("train", "serve"),
    ):
        raise ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")


def test_a_missing_module_of_our_own_is_not_blamed_on_an_extra():
    with pytest.raises(ModuleNotFoundError), extras("train"):
        raise ModuleNotFoundError("No module named 'contract.nothing'", name="contract.nothing")


def test_help_loads_no_library_of_training_or_serving():
    code = "import sys; from cli.main import run; run(['train', '--help']); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    modules = set(loaded.stdout.splitlines()[-1].split())
    assert not modules & OPTIONAL_MODULES


def test_onnxruntime_is_told_not_to_report_before_it_is_imported(tmp_path):
    code = "from cli.main import run; run(['--version']); import onnxruntime"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment, check=True, stdout=subprocess.PIPE
    )
    assert not list(tmp_path.iterdir())


def test_the_demo_of_an_unknown_model_is_refused_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["demo", "--model", "dien"]) == 2
    assert "no such model; there are tin, din, diffumin, mean_pool, popularity" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_flag_is_named_as_it_was_given(capsys):
    assert run(["load", "log", "--redis", "nonsense"]) == 2
    assert "--redis" in capsys.readouterr().err
