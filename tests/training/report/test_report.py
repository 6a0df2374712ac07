"""The page says what the run is worth, needs nothing else, and has words where there are no figures."""

import html
import json
import re
import shutil

import numpy as np
import polars as pl
import pytest

from contract.errors import InputError, LongsightError, RunError
from tests.training.report.conftest import NOW
from training.evaluate import evaluate
from training.prepare import prepare
from training.report import case as case_module
from training.report import write_report
from training.report.case import open_case
from training.report.gain import gains_of
from training.train import train

HEADINGS = (
    "Metrics",
    "Gain over baselines",
    "Are the probabilities true?",
    "Where are they wrong?",
    "Which behaviours count: the log and the model",
    "Learning curves",
    "Coverage",
    "Splits",
    "Provenance",
)
TEST_FROM = 85_000


def words_of(page: str) -> str:
    """Return the page's texts without tags and style, runs of space made one."""
    body = re.sub(r"<style>.*?</style>", " ", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)))


def report(run, **options):
    return write_report(run, replicates=100, now=NOW, **options).read_text(encoding="utf-8")


def test_every_section_is_there_with_a_sentence_on_how_to_read_it(page):
    found = re.findall(
        r'<section id="[a-z-]+">\s*<h2>(.*?)</h2>\s*<p class="reading">(.{60,}?)</p>', page, re.DOTALL
    )
    assert tuple(title for title, _ in found) == HEADINGS


def test_the_page_refers_to_nothing_outside_itself(page):
    assert not re.findall(
        r"""(?:src|srcset|action|poster|xlink:href)\s*=|@import|url\(|<script|<link(?! rel="icon")""", page
    )
    assert set(re.findall(r'href="([^"]*)"', page)) - {"data:,"} == {
        f"#{name}" for name in re.findall(r'<section id="([a-z-]+)"', page)
    }
    assert "default-src 'none'" in page


def test_figures_are_those_of_evaluate(made, page):
    for split in ("validation", "test"):
        metrics = evaluate(made / "runs" / "tin", split=split)
        for name in ("gauc", "auc", "log_loss", "ne", "pcoc", "ece"):
            assert f"{metrics[name]:.4f}" in page, (split, name)


def test_no_figure_is_a_name_of_nothing(page):
    assert not re.search(r"\b(nan|None|inf|Infinity|NaN|Markup)\b", page)


def test_slices_cover_placement_new_ads_and_history_length(page):
    words = words_of(page)
    assert "By placement: context field slot" in words
    assert (
        "By placement: context field position, 8 values as logged (the model is given the constant" in words
    )
    assert "By ad field kind, 6 values" in words
    assert "New ads: how often the ad was shown in the training split" in words
    assert "By history length" in words


def test_baselines_are_popularity_and_the_runs_beside_it(page):
    words = words_of(page)
    assert "Against popularity (counted here)" in words
    assert "Against mean_pool (mean_pool, L = 20)" in words
    assert "Against din (din, L = 20)" in words
    assert "Against popularity (popularity" not in words  # the run beside it is the same that is counted


def test_popularity_counted_here_is_the_run_popularity(made, page):
    trained = evaluate(made / "runs" / "popularity")["gauc"]
    table = page[page.index("<caption>Against popularity") :]
    assert f"{trained:.4f}" in table[: table.index("</table>")]
    case = open_case(
        made / "runs" / "tin", baselines=(), category=None, replicates=100, seed=0, progress=None
    )
    counted = next(gain for gain in gains_of(case) if gain.name.startswith("popularity"))
    loss = counted.by_length["all"][2]["log_loss"].b
    assert loss == pytest.approx(evaluate(made / "runs" / "popularity")["log_loss"], rel=1e-6)


@pytest.mark.parametrize(("model", "says"), [("din", "|activation weight|"), ("tin", "exp(attention logit)")])
def test_maps_of_models_with_attention_show_what_they_learned(runs, model, says):
    page = report(runs / model, baselines=[runs / "mean_pool"])
    assert says in page
    assert f"Learned by {model}, by rank" in page
    assert f"Learned by {model}, by age" in page


@pytest.mark.parametrize(
    ("model", "says"), [("mean_pool", "weighs every behaviour alike"), ("popularity", "reads no history")]
)
def test_maps_of_other_models_show_the_log_and_say_why_no_more(runs, model, says):
    page = report(runs / model, baselines=[runs / "tin"])
    assert says in page
    assert "Measured in the log, by rank" in page
    assert "Learned by" not in page


def test_popularity_has_no_learning_curve(runs):
    assert "is fitted by counting: there is no curve" in report(runs / "popularity", baselines=[runs / "tin"])


def test_lines_of_steps_are_drawn_with_those_of_epochs(runs):
    journal = runs / "tin" / "metrics.jsonl"
    epochs = [line for line in journal.read_text().splitlines() if '"validation"' in line]
    journal.write_text("\n".join(epochs) + "\n")
    assert "training, by step" not in report(runs / "tin", baselines=[runs / "din"])
    steps = [
        {"step": 10 * (i + 1), "epoch": i // 5, "loss": 0.6 - i / 50, "learning_rate": 1e-3}
        for i in range(10)
    ]
    journal.write_text("\n".join([*map(json.dumps, steps), *epochs, '{"torn": ']))
    assert "training, by step" in report(runs / "tin", baselines=[runs / "din"])


def test_the_same_run_and_seed_give_the_same_bytes(made, page, tmp_path):
    assert report(made / "runs" / "tin", output=tmp_path / "again.html") == page


def test_asked_for_baselines_replace_those_found(runs):
    words = words_of(report(runs / "tin", baselines=[runs / "din"]))
    assert "Against din" in words
    assert "Against mean_pool" not in words


def test_a_run_on_other_data_is_no_baseline(runs, made, tmp_path):
    prepare(made / "log", tmp_path / "other", validation_from=60_000)
    train(
        tmp_path / "other", runs / "mean_pool", model="mean_pool", settings={"epochs": 1, "history_length": 5}
    )
    with pytest.raises(RunError, match="different datasets"):
        write_report(runs / "tin", baselines=[runs / "mean_pool"])
    assert "Against mean_pool" not in report(runs / "tin")


def test_a_damaged_neighbour_is_passed_over(runs):
    (runs / "din" / "checkpoint.pt").write_bytes(b"no weights")
    (runs / "mean_pool" / "run.json").write_text('{"format": 1')
    assert "Against popularity" in report(runs / "tin")


def test_the_field_of_the_maps_may_be_chosen(runs):
    assert "other ad_id" in report(runs / "tin", category="ad_id", baselines=[runs / "din"])
    with pytest.raises(InputError, match=r"--category price: no ad field .* there are ad_id, kind"):
        write_report(runs / "tin", category="price", replicates=100)


def test_what_was_asked_for_is_checked_before_anything_is_scored(runs, monkeypatch):
    monkeypatch.setattr(case_module, "score_split", lambda *_, **__: pytest.fail("scored"))
    with pytest.raises(InputError):
        write_report(runs / "tin", category="price")
    with pytest.raises(RunError):
        write_report(runs / "tin", baselines=[runs / "nowhere"])


def test_what_fails_leaves_the_older_report(runs, monkeypatch):
    def torn(_path, _text, **_options):
        raise OSError(28, "No space left on device")

    (runs / "tin" / "report.html").write_text("older")
    monkeypatch.setattr("pathlib.Path.write_text", torn)
    with pytest.raises(
        LongsightError, match=r"report\.html can't be written: No space left on device; an older"
    ):
        write_report(runs / "tin", baselines=[runs / "din"], replicates=100)
    assert (runs / "tin" / "report.html").read_text() == "older"
    assert {path.name for path in (runs / "tin").glob(".*")} == set()


def test_words_of_the_log_are_text_and_not_markup(run_on):
    evil = "<script>alert(1)</script>&"
    run = run_on(
        lambda rows: rows.with_columns(
            slot=pl.when(pl.col("slot") == "top").then(pl.lit(evil)).otherwise("slot")
        )
    )
    page = report(run)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in page


def test_ids_that_only_look_like_numbers_are_words(run_on):
    run = run_on(
        lambda rows: rows.with_columns(
            slot=pl.when(pl.col("slot") == "top").then(pl.lit("--5")).otherwise(pl.lit("7"))
        )
    )
    assert "By placement: context field slot" in words_of(report(run))


@pytest.mark.parametrize("clicked", [0, 1])
def test_a_test_split_of_one_class_is_reported_in_words(run_on, clicked):
    late = pl.col("timestamp") >= TEST_FROM
    run = run_on(
        lambda rows: rows.with_columns(
            clicked=pl.when(late).then(clicked).otherwise("clicked").cast(pl.Int64)
        )
    )
    page = report(run)
    words = words_of(page)
    assert "GAUC not defined here, AUC not defined here" in words
    assert not re.search(r"\b(nan|None|inf)\b", page)
    assert ("since nothing was clicked" in words) == (clicked == 0)


def without(runs, *splits):
    """Take a run, and a copy of its dataset in which splits are empty: those of older versions may be."""
    record = json.loads((runs / "tin" / "run.json").read_text())
    shutil.copytree(record["dataset"], copy := runs / "dataset")
    requests = np.load(copy / "requests.npy")
    requests["split"][np.isin(requests["split"], splits)] = 0
    np.save(copy / "requests.npy", requests)
    record["dataset"] = str(copy)
    (runs / "tin" / "run.json").write_text(json.dumps(record))
    return runs / "tin"


def test_an_empty_test_split_is_said_and_validation_is_judged(runs):
    words = words_of(report(without(runs, 2)))
    assert "The test split has no requests: its metrics are not defined here." in words
    assert "Ranking on validation: GAUC 0." in words
    assert "Rows of the validation split." in words


def test_with_nothing_to_judge_the_page_says_so(runs):
    words = words_of(report(without(runs, 1, 2)))
    assert "Neither validation nor test has requests: there is nothing to judge." in words
    assert "No split has rows to judge." in words


def test_users_without_any_history_leave_the_maps_in_words(made, run_on, tmp_path):
    run = run_on(
        lambda rows: rows.with_columns(user_id=pl.lit("new-") + pl.col("user_id")), model="popularity"
    )
    assert "No request has a history." in report(run)


def test_of_more_rows_than_are_judged_whole_users_are_drawn_and_it_is_said(runs, monkeypatch):
    monkeypatch.setattr(case_module, "MOST_ROWS", 150)
    words = words_of(report(runs / "tin", baselines=[runs / "din"]))
    assert re.search(
        r"Of the test split's \d+ requests, \d+ are judged: all those of users drawn at random", words
    )
    kept = int(re.search(r"Of the test split's \d+ requests, (\d+) are judged", words)[1])
    assert 0 < kept * 8 < 200


def test_a_run_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RunError, match="longsight train"):
        write_report(tmp_path / "nothing")


def test_a_dataset_that_changed_is_refused(runs, made, tmp_path):
    shutil.copytree(made / "dataset", tmp_path / "dataset")
    record = json.loads((runs / "tin" / "run.json").read_text())
    record["provenance"]["dataset_fingerprint"] = "0" * 64
    (runs / "tin" / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="has changed since"):
        write_report(runs / "tin")
