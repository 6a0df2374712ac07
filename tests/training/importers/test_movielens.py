"""MovieLens from small files in its format: labels, genres, the split by time."""

import polars as pl
import pytest

from contract.errors import LogError
from tests.training.importers.raw_files import MOVIELENS, write
from training.importers.movielens import import_movielens
from training.prepare import prepare


@pytest.fixture(name="raw")
def _raw(tmp_path):
    return write(tmp_path / "raw", MOVIELENS)


@pytest.fixture(name="imported")
def _imported(raw, tmp_path):
    return import_movielens(raw, tmp_path / "log"), tmp_path / "log"


def ratings():
    lines = MOVIELENS["ratings.csv"].split()[1:]
    rows = [
        (*map(int, line.split(",")[:2]), float(line.split(",")[2]), int(line.split(",")[3])) for line in lines
    ]
    return sorted(rows, key=lambda row: (row[0], row[3]))


def test_every_rating_is_a_request_and_4_stars_are_a_click(imported):
    report, log = imported
    shown = pl.read_parquet(log / "impressions.parquet")
    assert shown.rows() == [(user, film, second, int(stars >= 4)) for user, film, stars, second in ratings()]
    assert 0 < report["clicked"] < report["impressions"] == 41


def test_behaviours_say_whether_the_film_was_liked_and_carry_its_genres(imported):
    _, log = imported
    genres = {1: "Adventure|Animation", 2: "Comedy|Drama", 3: "Comedy|Drama"}
    assert pl.read_parquet(log / "behaviors.parquet").rows() == [
        (user, second, "liked" if stars >= 4 else "rated", film, genres.get(film))
        for user, film, stars, second in ratings()
    ]


def test_films_are_read_past_commas_and_quotes_in_their_titles(imported):
    _, log = imported
    assert pl.read_parquet(log / "ads.parquet").rows() == [
        (1, "Adventure|Animation"),
        (2, "Comedy|Drama"),
        (3, "Comedy|Drama"),
        (4, None),
    ]


def test_a_fifth_of_the_ratings_comes_after_the_training_period(imported, tmp_path):
    report, log = imported
    counts = prepare(log, tmp_path / "dataset")
    assert [counts[f"requests_{split}"] for split in ("train", "validation", "test")] == [32, 4, 5]
    assert report["validation_from"] < report["test_from"]


@pytest.mark.parametrize("ratings", [0, 1, 20])
def test_no_ratings_one_or_many_of_one_second_cannot_be_split(raw, tmp_path, ratings):
    (raw / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "1,1,4.0,964980000\n" * ratings)
    with pytest.raises(LogError, match=r"ratings\.csv: too few ratings"):
        import_movielens(raw, tmp_path / "log")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


BAD = {
    "rating": (
        "ratings.csv",
        ",4.0,964980500",
        ",6.0,964980500",
        "line 42: column 'rating': '6.0' is not a number",
    ),
    "film twice": (
        "movies.csv",
        "\r\n3,Heat",
        "\r\n1,Heat",
        "line 5: column 'movieId': 1 stands there twice",
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_a_bad_line_is_named(raw, tmp_path, case):
    name, old, new, words = case
    (raw / name).write_text(MOVIELENS[name].replace(old, new), newline="")
    with pytest.raises(LogError, match=rf"{name}: {words}"):
        import_movielens(raw, tmp_path / "log")
