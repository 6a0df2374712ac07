"""Two runs on the same impressions: which is better, and is that more than chance."""

import json
import resource
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cli.main import run as longsight
from contract.errors import DatasetError, InputError, LongsightError, RunError
from tests.support.logs import write_log
from training.bootstrap import METRICS, Difference
from training.compare import compare, verdict
from training.evaluate import evaluate
from training.prepare import prepare
from training.train import train

FAST = {
    "epochs": 6,
    "requests_per_batch": 16,
    "learning_rate": 1e-2,
    "embedding_width": 8,
    "history_length": 20,
}


@pytest.fixture(name="made", scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    prepare(write_log(folder / "log"), folder / "dataset")
    train(folder / "dataset", folder / "tin", model="tin", settings=FAST)
    train(folder / "dataset", folder / "popularity", model="popularity")
    return folder


@pytest.fixture(name="found", scope="module")
def _found(made):
    return compare(made / "tin", made / "popularity", replicates=200)


def test_a_model_that_reads_histories_is_significantly_better_than_popularity(found):
    gauc = found["metrics"]["gauc"]
    assert gauc["significant"] is True
    assert 0 < gauc["low"] < gauc["difference"] < gauc["high"]
    assert found["verdict"][0].startswith("tin is better than popularity in GAUC: +.")
    assert found["verdict"][0].endswith("significant")


def test_the_figures_compared_are_those_of_evaluate(made, found):
    for side in ("a", "b"):
        metrics = evaluate(Path(found[side]["run"]))
        assert (found["rows"], found["requests"], found["users"]) == tuple(
            metrics[name] for name in ("rows", "requests", "users")
        )
        for name in METRICS:
            assert found["metrics"][name][side] == pytest.approx(metrics[name])
        for length, part in found["by_length"].items():
            assert part["metrics"]["auc"][side] == pytest.approx(metrics["by_length"][length]["auc"])


def test_turned_round_everything_changes_its_sign(made, found):
    turned = compare(made / "popularity", made / "tin", replicates=200)
    for name in METRICS:
        there, back = found["metrics"][name], turned["metrics"][name]
        assert (there["low"], there["high"]) == pytest.approx((-back["high"], -back["low"]), abs=1e-12)
    assert turned["verdict"][0].startswith("popularity is worse than tin in GAUC: -.")


def test_a_run_does_not_differ_from_itself(made):
    same = compare(made / "tin", made / "tin", replicates=100)
    assert all(entry["significant"] is False for entry in same["metrics"].values())
    assert (
        same["verdict"][0]
        == "no significant difference between tin (A) and tin (B) in GAUC: +.0000 [+.0000, +.0000]"
    )


def test_runs_of_one_name_are_told_apart_by_their_paths(made, tmp_path):
    shutil.copytree(made / "tin", tmp_path / "tin")
    found = compare(made / "tin", tmp_path / "tin", replicates=100)
    assert found["a"]["name"] == str(made / "tin")
    assert found["b"]["name"] == str(tmp_path / "tin")


def test_runs_on_other_splits_are_refused_in_one_line(made, tmp_path):
    prepare(made / "log", tmp_path / "dataset", validation_from=60_000)
    train(tmp_path / "dataset", tmp_path / "other", model="popularity")
    with pytest.raises(RunError, match=r"different datasets .* train both on one dataset") as caught:
        compare(made / "tin", tmp_path / "other")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("what", "value"), [("sampling", {"known": False}), ("history_lag_s", 60)])
def test_runs_that_differ_in_sampling_or_lag_are_refused(made, tmp_path, what, value):
    shutil.copytree(made / "popularity", tmp_path / "other")
    record = json.loads((tmp_path / "other" / "run.json").read_text())
    (tmp_path / "other" / "run.json").write_text(json.dumps({**record, what: value}))
    with pytest.raises(RunError, match=f"differ in {what}"):
        compare(made / "tin", tmp_path / "other")


def test_there_is_no_other_split(made):
    with pytest.raises(InputError, match="--split future: no such split"):
        compare(made / "tin", made / "popularity", split="future")


def changed(made, tmp_path, change):
    """Return copies of both runs on a copy of the dataset whose arrays `change` has altered."""
    shutil.copytree(made / "dataset", tmp_path / "dataset")
    change(tmp_path / "dataset")
    for name in ("tin", "popularity"):
        shutil.copytree(made / name, tmp_path / name)
        record = json.loads((tmp_path / name / "run.json").read_text())
        record["dataset"] = str(tmp_path / "dataset")
        (tmp_path / name / "run.json").write_text(json.dumps(record))
    return tmp_path / "tin", tmp_path / "popularity"


def never_clicked(dataset):
    clicked = np.load(dataset / "row_clicked.npy")
    np.save(dataset / "row_clicked.npy", np.zeros_like(clicked))


def no_test(dataset):
    requests = np.load(dataset / "requests.npy")
    requests["split"][requests["split"] == 2] = 1
    np.save(dataset / "requests.npy", requests)


def test_a_split_without_a_click_is_compared_in_what_is_defined(made, tmp_path, capsys):
    runs = changed(made, tmp_path, never_clicked)
    found = compare(*runs, replicates=100)
    for name in ("gauc", "auc", "ne", "pcoc"):
        entry = found["metrics"][name]
        assert (entry["difference"], entry["low"], entry["significant"]) == (None, None, None)
        assert "is not defined for these rows" in entry["verdict"]
    assert found["metrics"]["log_loss"]["significant"] is not None
    json.dumps(found, allow_nan=False)
    assert longsight(["compare", *map(str, runs), "--replicates", "100"]) == 0
    assert "nan" not in capsys.readouterr().out
    assert longsight(["evaluate", str(runs[0]), "--intervals", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["auc"] is None
    assert answer["intervals"]["auc"] is None


def test_an_empty_split_is_refused_in_one_line(made, tmp_path, capsys):
    runs = changed(made, tmp_path, no_test)
    with pytest.raises(DatasetError, match="no request in the test split"):
        compare(*runs)
    for words in (["compare", *map(str, runs)], ["evaluate", str(runs[0])]):
        assert longsight(words) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert said[-1].startswith("error: ")
        assert "Traceback" not in "".join(said)


def test_the_command_says_it_in_words_and_in_json(made, capsys):
    words = ["compare", str(made / "tin"), str(made / "popularity"), "--replicates", "100"]
    assert longsight(words) == 0
    out = capsys.readouterr().out
    assert "tin is better than popularity in GAUC" in " ".join(out.split())
    assert "events before: " in out
    assert longsight([*words, "--json", "--seed", "4"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["seed"] == 4
    assert set(answer["metrics"]) == set(METRICS)


def test_evaluate_adds_intervals_when_asked(made):
    plain, more = evaluate(made / "tin"), evaluate(made / "tin", intervals=True)
    assert more.keys() - plain.keys() == {"intervals"}
    for name in METRICS:
        low, high = more["intervals"][name]
        assert low <= high
    assert more["intervals"]["auc"][0] < more["auc"] < more["intervals"]["auc"][1]


def test_the_report_command_writes_where_it_is_told(made, tmp_path, capsys):
    target = tmp_path / "page.html"
    words = ["report", str(made / "tin"), "--baseline", str(made / "popularity"), "--output", str(target)]
    assert longsight([*words, "--replicates", "100", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer == {"report": str(target), "bytes": target.stat().st_size}
    assert longsight(["report", str(tmp_path / "nowhere")]) == 2


def test_predictions_are_written_beside_the_metrics(made, tmp_path):
    metrics = evaluate(made / "tin", predictions=tmp_path / "p.parquet")
    assert pl.read_parquet(tmp_path / "p.parquet").height == metrics["rows"]


def test_predictions_that_find_no_room_leave_the_older_ones(made, tmp_path):
    (tmp_path / "p.parquet").write_bytes(b"older")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # files can't grow: like a disk that is full
    try:
        with pytest.raises(
            LongsightError, match=r"p\.parquet can't be written: File too large; an older file"
        ):
            evaluate(made / "tin", predictions=tmp_path / "p.parquet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["p.parquet"]
    assert (tmp_path / "p.parquet").read_bytes() == b"older"


NAMES = ("tin", "din")


@pytest.mark.parametrize(
    ("metric", "difference", "says"),
    [
        (
            "gauc",
            Difference(0.78, 0.7643, 0.012, 0.019),
            "tin is better than din in GAUC: +.0157 [+.0120, +.0190], significant",
        ),
        (
            "gauc",
            Difference(0.70, 0.71, -0.02, 0.001),
            "no significant difference between tin and din in GAUC",
        ),
        ("log_loss", Difference(0.35, 0.36, -0.02, -0.005), "tin is better than din in log loss: -.0100"),
        ("ece", Difference(0.03, 0.01, 0.01, 0.03), "tin is worse than din in ECE: +.0200"),
        (
            "pcoc",
            Difference(0.95, 1.10, -0.2, -0.1),
            "tin has the lower PCOC: -.1500 [-.2000, -.1000], significant; tin is nearer",
        ),
        ("auc", Difference(0.7, 0.6, np.nan, np.nan), "AUC differs by +.1000; too few users for an interval"),
        ("auc", Difference(np.nan, np.nan, np.nan, np.nan), "AUC is not defined for these rows"),
    ],
)
def test_a_verdict_is_a_plain_sentence(metric, difference, says):
    assert verdict(metric, difference, NAMES).startswith(says)
