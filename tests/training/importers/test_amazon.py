"""Amazon 2014 from small files in its format: the protocols of the DIN and the TIN paper, as a log split by time."""

import gzip
import random
import re

import polars as pl
import pytest

from contract.errors import InputError, LogError
from contract.schema import Schema
from tests.training.importers.raw_files import REVIEWS, meta, reviews, write
from training.dataset import Dataset
from training.importers.amazon import DAY_S, TEST_FROM, import_amazon
from training.prepare import prepare

FILES = {"reviews_Electronics_5.json": reviews(), "meta_Electronics.json": meta()}
# Each user's items in the order of the days; two of one day in the order of the file.
LISTS = {
    "AA1": ["B01", "B02", "B04", "B05", "B03"],
    "AB2": ["B04", "B03", "B01", "B02"],
    "AC3": ["B01", "B06"],
    "AD4": ["B05"],
}


@pytest.fixture(name="raw")
def _raw(tmp_path):
    return write(tmp_path / "raw", FILES)


@pytest.fixture(name="run")
def _run(raw, tmp_path):
    def run(protocol, name="log", **options):
        report = import_amazon(raw, tmp_path / name, protocol=protocol, **options)
        tables = {path.stem: pl.read_parquet(path) for path in (tmp_path / name).glob("*.parquet")}
        return report, tables

    return run


def papers_pairs(lists, seed=1234):
    """Every (user, history, positive, negative) as the papers' code makes them, written down once more.

    Users and items are numbered by their sorted ids; each user's negatives are drawn for all of his items.
    """
    generator = random.Random(seed)
    items = sorted({item for each in lists.values() for item in each})
    found = {}
    for user in sorted(lists):
        own = lists[user]
        drawn = []
        for _ in own:
            negative = own[0]
            while negative in own:
                negative = items[generator.randint(0, len(items) - 1)]
            drawn.append(negative)
        found[user] = [(own[:k], own[k], drawn[k]) for k in range(1, len(own))]
    return found


def logged_pairs(tables):
    """The same of a log: history = everything of the user strictly before the request."""
    found = {}
    events = tables["behaviors"].sort("timestamp", maintain_order=True)
    for (user, second), rows in tables["impressions"].group_by("user_id", "timestamp", maintain_order=True):
        before = events.filter(pl.col("user_id") == user, pl.col("timestamp") < second)["item_id"].to_list()
        shown = {clicked: ad for ad, clicked in rows.select("ad_id", "clicked").rows()}
        assert len(rows) == 2
        found.setdefault(user, []).append((before, shown[1], shown[0]))
    return found


@pytest.mark.parametrize("protocol", ["din", "tin"])
def test_requests_are_the_pairs_of_the_papers_with_their_histories_and_negatives(run, protocol):
    _, tables = run(protocol)
    wanted = {user: pairs for user, pairs in papers_pairs(LISTS).items() if pairs}
    assert logged_pairs(tables) == wanted


def split_of(tables, log):
    split = Schema.load(log / "schema.toml").split
    stamps = tables["impressions"].filter(clicked=1)
    train = stamps.filter(pl.col("timestamp") < split.validation_from)
    test = stamps.filter(pl.col("timestamp") >= split.test_from)
    return [
        sorted(part.select("user_id", "ad_id").rows())
        for part in (train, stamps.join(pl.concat([train, test]), on=["user_id", "ad_id"], how="anti"), test)
    ]


TEST = [("AA1", "B03"), ("AB2", "B02"), ("AC3", "B06")]


def test_tin_validates_on_the_second_last_and_tests_on_the_last_item(run, tmp_path):
    _, tables = run("tin")
    train, validation, test = split_of(tables, tmp_path / "log")
    assert train == [("AA1", "B02"), ("AA1", "B04"), ("AB2", "B03")]
    assert validation == [("AA1", "B05"), ("AB2", "B01")]
    assert test == TEST


def test_din_trains_on_all_but_the_last_item_and_sets_some_users_aside(run, tmp_path):
    _, tables = run("din", validation_share=0.5)
    train, validation, test = split_of(tables, tmp_path / "log")
    assert test == TEST
    assert sorted(train + validation) == sorted(
        [("AA1", "B02"), ("AA1", "B04"), ("AB2", "B03"), ("AA1", "B05"), ("AB2", "B01")]
    )
    assert validation in ([("AA1", "B05")], [("AB2", "B01")])


def test_row_counts_follow_from_the_rule(run):
    """Users of 5, 4, 2 and 1 reviews: DIN 2 x (3 + 2) training rows, TIN 2 x (2 + 1); a pair of each for the test."""
    din, _ = run("din", "a", validation_share=0.01)
    tin, _ = run("tin", "b")
    rows = ("train_rows", "validation_rows", "test_rows")
    assert [din[name] for name in rows] == [10 - 2, 2, 6]
    assert [tin[name] for name in rows] == [6, 4, 6]


def test_time_is_the_position_counted_from_the_end(run):
    _, tables = run("tin")
    events = tables["behaviors"]
    for user, items in LISTS.items():
        mine = events.filter(user_id=user)
        assert mine["item_id"].to_list() == items
        assert mine["timestamp"].to_list() == [TEST_FROM - DAY_S * k for k in reversed(range(len(items)))]


def test_items_have_the_last_category_of_their_last_list(run):
    report, tables = run("tin")
    assert tables["ads"].rows() == [
        ("B01", "Car GPS"),
        ("B02", "eBook Readers"),
        ("B03", "Car GPS"),
        ("B04", "eBook Readers"),
        ("B05", "Men's Watches"),
        ("B06", None),  # not in the item file
    ]
    assert report["items_without_category"] == 1
    assert report["categories"] == 3


def test_another_seed_draws_other_negatives_for_the_same_clicks(run):
    _, first = run("tin", "a")
    _, second = run("tin", "b", seed=1)
    assert not first["impressions"].equals(second["impressions"])
    clicks = [each["impressions"].filter(clicked=1) for each in (first, second)]
    assert clicks[0].equals(clicks[1])


@pytest.mark.parametrize("protocol", ["din", "tin"])
def test_the_log_is_prepared_with_its_splits(run, tmp_path, protocol):
    report, _ = run(protocol)
    counts = prepare(tmp_path / "log", tmp_path / "dataset")
    for split in ("train", "validation", "test"):
        assert 2 * counts[f"requests_{split}"] == report[f"{split}_rows"]
    dataset = Dataset.open(tmp_path / "dataset")
    assert dataset.manifest["sampling"] == {"known": False}


def test_zipped_files_make_the_same_log(run, raw, tmp_path):
    run("tin", "plain")
    for name, text in FILES.items():
        (raw / name).unlink()
        (raw / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    run("tin", "zipped")
    for path in (tmp_path / "plain").iterdir():
        assert (tmp_path / "zipped" / path.name).read_bytes() == path.read_bytes()


def test_blank_lines_are_passed_over(run, raw):
    plain, _ = run("tin", "plain")
    for name, text in FILES.items():
        (raw / name).write_text(text.replace("\n", "\n\n"), newline="\r\n")
    spaced, _ = run("tin", "spaced")
    assert spaced == plain


R, M = "reviews_Electronics_5.json", "meta_Electronics.json"
REFUSED = {
    "python literal": (
        R,
        '{"reviewerID": "AC3"',
        "{'reviewerID': \"AC3\"",
        f"{R}: line 7: is not a JSON object",
    ),
    "cut": (
        R,
        ', "reviewTime": "01 20, 2014"}\n{"reviewerID": "AB2", "asin": "B01"',
        "\n{",
        "line 3: is not a JSON",
    ),
    "no item": (R, '"asin": "B02"', '"item": "B02"', "line 3: 'asin' is None, not a text"),
    "empty id": (R, '"AA1"', '""', "line 2: 'reviewerID' is '', not a text"),
    "half a character in an id": (
        R,
        '"AA1"',
        '"\\ud83d"',
        "line 2: 'reviewerID' is '\\ud83d', which is no Unicode",
    ),
    "half a character in a category": (
        M,
        "'eBook Readers'",
        r"'\ud83d'",
        "line 3: 'categories' is '\\ud83d', which",
    ),
    "time as text": (
        R,
        '"unixReviewTime": 1390867200',
        '"unixReviewTime": "1390867200"',
        "line 3: 'unixReviewTime'",
    ),
    "milliseconds": (
        R,
        ": 1390867200",
        ": 1390867200000",
        "line 3: 'unixReviewTime' is 1390867200000, no time in",
    ),
    "a list": (R, reviews().split("\n", 1)[0], "[1]", "line 1: is not a JSON object"),
    "json items": (M, "'asin': 'B01'", '"asin": null', f"{M}: line 2: is not a Python literal"),
    "code": (M, "'asin': 'B01'", "'asin': print('B01')", "line 2: is not a Python literal"),
    "no lists": (
        M,
        "[['Electronics', 'eBook Readers']]",
        "'eBook Readers'",
        "line 3: 'categories' is not a list of",
    ),
    "no asin": (M, "'asin': 'B03'", "'isbn': 'B03'", "line 4: has no text under 'asin'"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_a_bad_line_is_named_and_nothing_is_left(run, raw, tmp_path, case):
    name, old, new, words = case
    assert old in FILES[name]
    (raw / name).write_text(FILES[name].replace(old, new, 1))
    with pytest.raises(LogError, match=re.escape(words)) as caught:
        run("tin")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_bytes_of_another_encoding_are_named_with_their_line(run, raw):
    (raw / M).write_bytes(FILES[M].encode().replace(b"eBook", "电子".encode("gbk"), 1))
    with pytest.raises(LogError, match=r"meta_Electronics\.json: line 3: is not UTF-8"):
        run("tin")


def test_an_unfinished_gzip_file_is_named(run, raw):
    (raw / R).write_bytes(gzip.compress(FILES[R].encode())[:-20])
    with pytest.raises(LogError, match=r"reviews_Electronics_5\.json: is a damaged or unfinished gzip file"):
        run("tin")


def test_a_missing_file_is_named_both_ways(run):
    with pytest.raises(LogError, match=r"reviews_Books_5\.json: no such file, nor reviews_Books_5\.json\.gz"):
        run("tin", category="Books")


def test_a_user_who_has_reviewed_everything_has_no_negatives(run, raw):
    """It would be drawn for ever."""
    rest = '"reviewerName": "x", "helpful": [0, 0], "reviewText": "", "overall": 5.0, "summary": ""'
    items = sorted({item for _, item, _ in REVIEWS})
    lines = [f'{{"reviewerID": "AA1", "asin": "{item}", {rest}, "unixReviewTime": 1}}\n' for item in items]
    (raw / R).write_text("".join(lines))
    with pytest.raises(InputError, match="user 'AA1' has reviewed every item"):
        run("tin")


@pytest.mark.parametrize(
    "options",
    [{"protocol": "dien"}, {"validation_share": 0}, {"validation_share": 1}, {"seed": -1}, {"seed": 2**64}],
    ids=str,
)
def test_bad_arguments_are_refused(run, options):
    with pytest.raises(InputError, match=f"--{next(iter(options)).replace('_', '-')}"):
        run(**({"protocol": "din"} | options))
