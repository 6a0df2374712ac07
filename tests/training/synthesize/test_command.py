"""`longsight synthesize` as a program, and the page about it."""

import dataclasses
import json

import pytest

from cli.main import run
from tests.docs.pages import page
from training.synthesize.world import WORLD


def test_the_command_tells_its_counts_and_its_progress(tmp_path, capsys):
    log = tmp_path / "log"
    flags = ["--users", "20", "--ads", "48", "--events-per-user", "10", "--seed", "1", "--json"]
    assert run(["synthesize", str(log), *flags]) == 0
    told = capsys.readouterr()
    counts = json.loads(told.out.splitlines()[-1])
    assert (counts["users"], counts["ads"], counts["seed"], counts["requests"]) == (20, 48, 1, 200)
    assert 0 < counts["clicks"] < counts["impressions"] <= 2000
    assert "drawing users" in told.err
    assert run(["prepare", str(log), str(tmp_path / "dataset")]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--users", "0"], "error: --users 0: must be at least 1\n"),
        (["--ads", "47"], "error: --ads 47: must be at least 48, one ad of each category\n"),
        (["--events-per-user", "-3"], "error: --events-per-user -3: must be at least 1\n"),
        (
            ["--users", "99999999999999999999"],
            "error: --users 99999999999999999999: must be at most 1,000,000,000\n",
        ),
        (["--ads", "10000001"], "error: --ads 10000001: must be at most 10,000,000\n"),
        (["--events-per-user", "100001"], "error: --events-per-user 100001: must be at most 100,000\n"),
    ],
)
def test_a_bad_flag_is_refused_in_one_line(tmp_path, capsys, flags, message):
    assert run(["synthesize", str(tmp_path / "log"), *flags]) == 2
    assert capsys.readouterr().err == message
    assert not list(tmp_path.iterdir())


def test_the_page_lists_every_constant_with_its_value():
    rows = {row[0].strip("`"): json.loads(row[1]) for row in page("docs/synthesize.md").table("Constants")}
    assert rows == dataclasses.asdict(WORLD)
