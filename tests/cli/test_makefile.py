"""The two commands of a fresh clone, and CI: every check of `.ci/run` is a target of its own."""

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
MAKEFILE = (REPOSITORY / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, flags=re.MULTILINE))


def dry_run(*words: str) -> str:
    done = subprocess.run(["make", "-n", *words], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_promised_targets_are_there():
    assert {"demo", "test", "lint", "format", "types", "imports", "check", "bench", "loadtest"} <= TARGETS


def test_every_check_of_ci_is_a_target():
    (line,) = re.findall(r"^make (.+)$", (REPOSITORY / ".ci/run").read_text(), flags=re.MULTILINE)
    assert line.split() == ["lint", "types", "imports", "test"]
    (check,) = re.findall(r"^check: ([a-z ]+)", MAKEFILE, flags=re.MULTILINE)
    assert [*check.split(), "test"] == line.split()


@pytest.mark.parametrize(("once", "flag"), [("ONCE=1", True), ("ONCE=0", False), ("ONCE=", False)])
def test_once_makes_the_demo_end_by_itself(once, flag):
    assert ("--once" in dry_run("demo", once)) is flag


def test_torch_comes_first_and_by_its_exact_version():
    commands = dry_run("-W", "pyproject.toml", "test")
    torch, rest = commands.index("install --quiet torch==2.13.0\n"), commands.index("--editable")
    assert torch < rest < commands.index("touch .venv/.stamp")
    assert "'.[train,serve,demo,loadtest,dev]'" in commands


def test_every_target_but_help_and_clean_stands_on_the_environment():
    for target in TARGETS - {"help", "clean", "check"}:
        assert re.search(rf"^{target}: \$\(STAMP\)", MAKEFILE, flags=re.MULTILINE), target
