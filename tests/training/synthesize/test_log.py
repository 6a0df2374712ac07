"""The files: the same bytes for a seed, whatever the chunks; sorted, long-tailed, accepted by `prepare`."""

import hashlib

import numpy as np
import polars as pl
import pytest

from contract.errors import InputError, LongsightError
from tests.training.synthesize.sizes import SMALL
from training.dataset import Dataset
from training.prepare import prepare
from training.synthesize.log import synthesize
from training.synthesize.parts import Parts


def digests(log):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(log.iterdir())}


@pytest.mark.parametrize("chunk_users", [None, 1, 7])
def test_a_seed_gives_the_same_bytes_whatever_the_chunks(small_log, tmp_path, chunk_users):
    synthesize(tmp_path / "log", **SMALL, chunk_users=chunk_users)
    assert digests(tmp_path / "log") == digests(small_log)


def test_another_seed_gives_another_log(small_log, tmp_path):
    synthesize(tmp_path / "log", **SMALL | {"seed": 6})
    theirs, ours = digests(tmp_path / "log"), digests(small_log)
    assert {name for name in ours if ours[name] == theirs[name]} == {"schema.toml"}


def test_more_users_leave_those_there_as_they_are(small_log, tmp_path):
    synthesize(tmp_path / "log", **SMALL | {"users": 45})
    for name in ("users", "behaviors", "impressions", "truth"):
        ours = pl.read_parquet(small_log / f"{name}.parquet")
        theirs = pl.read_parquet(tmp_path / "log" / f"{name}.parquet")
        assert theirs["user_id"].n_unique() == 45
        assert theirs.filter(pl.col("user_id") <= 30).equals(ours)


def test_the_folder_holds_a_log_and_its_truth_and_nothing_else(small_log):
    log = ["ads.parquet", "behaviors.parquet", "impressions.parquet", "schema.toml", "users.parquet"]
    assert sorted(path.name for path in small_log.iterdir()) == [
        *log[:4],
        "truth.parquet",
        "truth_ads.parquet",
        log[4],
    ]


def test_behaviors_are_sorted_by_user_then_time_one_at_a_second(large_log):
    moments = pl.read_parquet(large_log / "behaviors.parquet", columns=["user_id", "timestamp"])
    assert moments.equals(moments.sort("user_id", "timestamp"))
    assert not moments.is_duplicated().any()


def test_lengths_have_the_mean_asked_for_and_a_long_tail(large_log):
    lengths = pl.read_parquet(large_log / "behaviors.parquet")["user_id"].value_counts()["count"].to_numpy()
    assert len(lengths) == 2_000
    assert lengths.mean() == pytest.approx(60, rel=0.1)
    assert np.median(lengths) < 0.8 * lengths.mean()
    assert lengths.max() > 6 * lengths.mean()


def test_interests_drift(large_log):
    behaviors = pl.read_parquet(large_log / "behaviors.parquet")
    middle = (behaviors["timestamp"].min() + behaviors["timestamp"].max()) // 2
    same, apart = [], []
    for events in behaviors.filter(pl.col("user_id") <= 300).partition_by("user_id"):
        early = np.bincount(events.filter(pl.col("timestamp") < middle)["category"], minlength=49)
        late = events.filter(pl.col("timestamp") >= middle)
        halves = [np.bincount(late[i::2]["category"], minlength=49) for i in (0, 1)]
        same.append(cosine(halves[0], halves[1]))
        apart.append(cosine(early, halves[0]))
    assert np.nanmean(apart) < np.nanmean(same) - 0.1


def cosine(a, b):
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / norm if norm else np.nan


def test_few_ads_get_most_of_the_impressions(large_log):
    shown = pl.read_parquet(large_log / "impressions.parquet")["ad_id"].value_counts()["count"].sort()
    assert shown[-50:].sum() > 0.25 * shown.sum()  # a tenth of the ads
    assert shown[:250].sum() < 0.35 * shown.sum()


def test_prepare_takes_it_and_keeps_every_row(small_log, tmp_path):
    counts = prepare(small_log, tmp_path / "dataset")
    assert counts["behaviors"] == pl.read_parquet(small_log / "behaviors.parquet").height
    assert counts["rows"] == pl.read_parquet(small_log / "impressions.parquet").height
    dataset = Dataset.open(tmp_path / "dataset")
    for split in ("train", "validation", "test"):
        assert dataset.requests_of(split).size


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"users": 0}, "--users 0: must be at least 1"),
        ({"ads": 47}, "--ads 47: must be at least 48, one ad of each category"),
        ({"events_per_user": 0}, "--events-per-user 0: must be at least 1"),
        ({"seed": -1}, f"--seed -1: expected a whole number from 0 to {2**63 - 1}"),
        ({"seed": 2**63}, f"--seed {2**63}: expected a whole number from 0 to {2**63 - 1}"),
    ],
)
def test_a_bad_number_is_refused_and_nothing_is_written(tmp_path, given, message):
    with pytest.raises(InputError) as refused:
        synthesize(tmp_path / "log", **SMALL | given)
    assert str(refused.value) == message
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_log_stays(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not replaced"):
        synthesize(tmp_path / "log", **SMALL)
    assert (tmp_path / "log" / "thesis.txt").read_text() == "mine"


def test_a_failure_leaves_the_older_log(tmp_path, monkeypatch):
    synthesize(tmp_path / "log", **SMALL | {"users": 3})
    before = digests(tmp_path / "log")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Parts, "join", full)
    with pytest.raises(LongsightError, match="No space left on device; nothing was left there"):
        synthesize(tmp_path / "log", **SMALL)
    assert digests(tmp_path / "log") == before
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_the_folder_may_bear_any_name(tmp_path):
    synthesize(tmp_path / "log[1]*", **SMALL | {"users": 3})
    assert pl.read_parquet(tmp_path / "log[1]*" / "users.parquet", glob=False).height == 3
