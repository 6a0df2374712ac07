from datetime import UTC, datetime

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from cli.output import plain, show
from cli.progress import Lines, progress
from cli.values import inside, parse_settings, parse_size, parse_time, parse_value
from contract.errors import InputError


@given(st.integers(0, 2**32 - 1))
def test_a_time_reads_the_same_as_seconds_and_as_iso(seconds):
    moment = datetime.fromtimestamp(seconds, UTC)
    assert parse_time(str(seconds)) == seconds
    assert parse_time(moment.isoformat()) == seconds
    assert parse_time(moment.replace(tzinfo=None).isoformat()) == seconds


def test_a_date_is_its_midnight_utc():
    assert parse_time("2017-10-09") == 1507507200


@pytest.mark.parametrize("text", ["1507507200000", "-5", "yesterday", "", "4294967296000000", "1960-01-01"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(typer.BadParameter):
        parse_time(text)


def test_milliseconds_are_recognised():
    with pytest.raises(typer.BadParameter, match="milliseconds"):
        parse_time("1507507200000")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4 * 10**9),
        ("4gb", 4 * 10**9),
        ("4G", 4 * 10**9),
        ("1.5 GB", 1_500_000_000),
        ("512MiB", 512 * 2**20),
        ("2Ti", 2 * 2**40),
        ("64k", 64_000),
        ("7B", 7),
        ("4000000000", 4 * 10**9),
    ],
)
def test_a_size_has_decimal_and_binary_units(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "-1GB", "4 gallons", "4iB", "1e9", "0", "0.1B", "nan", "9" * 30, "٤GB"]
)
def test_what_is_no_size_is_refused_in_one_line(text):
    with pytest.raises(typer.BadParameter) as refusal:
        parse_size(text)
    assert "\n" not in refusal.value.message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("0.5", 0.5),
        ("1e-3", 1e-3),
        ("true", True),
        ("False", False),
        ("tin", "tin"),
        ("[80, 40]", [80, 40]),
        ("[80, x]", "[80, x]"),
        ('["a"]', '["a"]'),
        ("", ""),
    ],
)
def test_a_setting_takes_the_type_it_reads_as(text, value):
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_a_later_setting_wins_and_values_may_hold_equals_signs():
    assert parse_settings(["a=1", "b=x=y", " a = 2 "]) == {"a": 2, "b": "x=y"}


def test_the_flags_of_the_store_exclude_each_other():
    assert inside(None, embedded=False, embedded_dir=None) is None
    assert inside("redis://h", embedded=False, embedded_dir=None) is False
    assert inside(None, embedded=True, embedded_dir=None) is True
    with pytest.raises(InputError):
        inside("redis://h", embedded=True, embedded_dir=None)


def test_results_become_valid_json(capsys):
    np = pytest.importorskip("numpy")
    show(
        {"a": np.float32(0.5), "b": np.arange(2), "c": float("nan"), "d": {"e": True}}, title="", as_json=True
    )
    assert capsys.readouterr().out == '{"a": 0.5, "b": [0, 1], "c": null, "d": {"e": true}}\n'
    assert plain(float("inf")) is None


def test_results_are_readable_as_a_table(capsys):
    show(
        {"rows": 1234567, "auc": 0.76543219, "by_length": {"<50": {"rows": 3}}, "ok": True},
        title="t",
        as_json=False,
    )
    shown = capsys.readouterr().out
    for text in ("1,234,567", "0.765432", "<50: rows 3", "yes"):
        assert text in shown


def test_progress_away_from_a_terminal_is_one_line_per_step(capsys):
    with progress() as report:
        for done in range(3):
            report(done, 3, "reading")
        report(0, None, "epoch 1: loss 0.5")
        report(1, None, "epoch 1: loss 0.4")
        report(2, None, "epoch 2, loss 0.4")
    assert capsys.readouterr().err == "reading\nepoch 1: loss 0.5\nepoch 2, loss 0.4\n"


def test_a_long_step_is_heard_of_again_now_and_then(capsys):
    now = iter(range(0, 100, 5))
    report = Lines(clock=lambda: next(now))
    for done in range(12):
        report(done, 1200, "replaying")
    assert capsys.readouterr().err == "replaying\nreplaying 3/1,200\nreplaying 6/1,200\nreplaying 9/1,200\n"
