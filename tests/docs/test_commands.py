"""What the documentation tells people to type is accepted by the program as it is."""

import re
import shlex

import pytest
import typer.main

from cli.main import build_app
from tests.docs.pages import PAGES, ROOT, page

PROGRAM = typer.main.get_command(build_app())
FENCED = [(where, words) for where in PAGES for words in where.commands("longsight")]
INLINE = [
    (where, span.split())
    for where in PAGES
    for span in where.spans
    if span.startswith("longsight ") and str(where) != "CHANGELOG.md"
]
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def resolve(words):
    """Return the command that `words` begin with, its name, and the words that are its arguments."""
    command, name, rest = PROGRAM, "longsight", words[1:]
    while hasattr(command, "commands") and rest:
        assert rest[0] in command.commands, f"{' '.join(words)}: no command {rest[0]!r}"
        name, command, rest = rest[0], command.commands[rest[0]], rest[1:]
    return command, name, rest


def test_the_readme_shows_the_whole_path():
    shown = [words[1] for words in page("README.md").commands("longsight")]
    path = ["import", "prepare", "train", "evaluate", "export", "bundle", "load", "serve", "replay"]
    assert shown == path


@pytest.mark.parametrize(("where", "words"), FENCED, ids=lambda value: str(value)[:60])
def test_a_fenced_command_parses(where, words):
    command, name, rest = resolve(words)
    command.make_context(name, rest)  # raises if a flag or a value is not accepted


@pytest.mark.parametrize(("where", "words"), INLINE, ids=lambda value: str(value)[:60])
def test_an_inline_command_and_its_flags_exist(where, words):
    command, _, rest = resolve(words)
    known = {flag for parameter in command.params for flag in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= known | {"--help"}


@pytest.mark.parametrize("where", PAGES, ids=str)
def test_a_make_target_exists(where):
    named = [span for span in where.spans if span.startswith("make ")]
    named += [shlex.join(words) for words in where.commands("make")]
    for line in named:
        words = shlex.split(line)[1:]
        assert {word for word in words if "=" not in word} <= TARGETS, line
        arguments = [word.removeprefix("ARGS=") for word in words if word.startswith("ARGS=")]
        if words[0] == "demo" and arguments:
            PROGRAM.commands["demo"].make_context("demo", shlex.split(arguments[0]))


def test_the_flags_of_the_load_test_are_those_of_its_file():
    source = (ROOT / "loadtest" / "locustfile.py").read_text()
    declared = dict(re.findall(r'^ +\("(--[\w-]+)", \w+, ([\d.]+),', source, re.MULTILINE))
    rows = page("docs/loadtest.md").table("The traffic")
    documented = {flag.strip("`"): default for flag, default, _ in rows}
    assert documented.pop("--log-folder") == ""
    assert documented == declared


def test_every_benchmark_is_listed():
    listed = set(re.findall(r"`(benchmarks/\w+\.py)`", page("docs/benchmarks/README.md").text))
    assert listed >= {f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.py")}
