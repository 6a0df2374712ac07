"""Imports MovieLens (the versions with ratings.csv and movies.csv): does a user rate this film 4 or better?

A small, well-known data set to try things on. Users rate page after page of films that the site lists, so the order
of the events is mostly that of the site: no evidence on long histories.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contract.errors import LogError
from training.importers.csv_chunks import ID, CsvColumn, CsvFile
from training.importers.external_log import (
    LAST_SECOND,
    External,
    Progress,
    Sample,
    changes,
    ids,
    read_small,
    shown_once,
    slices,
    sorted_on_disk,
)
from training.importers.memory import DEFAULT_MEMORY, memory_of
from training.importers.parquet_blocks import write_blocks, write_frame
from training.importers.partitions import Records
from training.schema_text import Axis, Exact, Field, schema_text

ACTIONS: Final = ("liked", "rated")
LIKED_FROM: Final = 4.0
VALIDATION_AT: Final = 0.8
"""Share of the ratings before the validation period; the second is that of the test."""
TEST_AT: Final = 0.9
NO_GENRES: Final = "(no genres listed)"
SECONDS_BYTES: Final = 400_000_000
"""Kept of the memory for the times of all ratings (4 bytes each, twice) and for the films."""
_RATINGS: Final = {
    "userId": ID,
    "movieId": ID,
    "rating": CsvColumn("number", low=0, high=5),
    "timestamp": CsvColumn("integer", low=1, high=LAST_SECOND),
}
_MOVIES: Final = {"movieId": ID, "genres": CsvColumn("text", nullable=True)}
_EVENT: Final = np.dtype([("user", "<u4"), ("timestamp", "<u4"), ("movie", "<u4"), ("liked", "u1")])
_BEHAVIORS: Final = pl.Schema(
    {
        "user_id": pl.UInt32,
        "timestamp": pl.Int64,
        "action": pl.String,
        "movie_id": pl.UInt32,
        "genres": pl.String,
    }
)
_IMPRESSIONS: Final = pl.Schema(
    {"user_id": pl.UInt32, "ad_id": pl.UInt32, "timestamp": pl.Int64, "clicked": pl.UInt8}
)


def schema_toml(validation_from: int, test_from: int) -> str:
    """Return the text of `schema.toml`."""
    return schema_text(
        ["MovieLens: does this user give the film that he rates 4 stars or more?"],
        Axis(validation_from, test_from, "80 % of the ratings train, 10 % validation, 10 % test"),
        actions=ACTIONS,
        vocabularies={"movie": Exact(2, 16), "genres": Exact(1, 1)},
        fields=(
            Field("behavior", "movie_id", "movie"),
            Field("behavior", "genres", "genres", optional=True),
            Field("ad", "ad_id", "movie", matches="movie_id"),
            Field("ad", "genres", "genres", matches="genres", optional=True),
        ),
    )


def import_movielens(
    raw: Path,
    log: Path,
    *,
    memory_bytes: int = DEFAULT_MEMORY,
    user_share: float = 1.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Write the log folder `log`, whole or not at all, and return the counts of what went into it.

    Args:
        raw: folder of ratings.csv and movies.csv.
        log: replaced if it is a log folder; on any error it stays as it was.
        memory_bytes: bound on this process's memory.
        user_share: keep everything of about this share of the users.
        seed: of that draw; nothing else here is random.
        progress: told `(done, in all, what is being done)`.

    Raises:
        InputError: a bad argument, or `log` is something other than a log folder.
        LogError: a raw file that is missing or not as it should be: names file, line and column.
        LongsightError: no room on the disk.

    """
    bound, sample = memory_of(memory_bytes, reserved=SECONDS_BYTES), Sample(user_share, seed)
    ratings = CsvFile(raw / "ratings.csv", _RATINGS)
    listed = CsvFile(raw / "movies.csv", _MOVIES, quoted=True)
    with sorted_on_disk(log, bound, progress) as (folder, external):
        reader = _Reader(external, sample, _films(external, listed))
        write_frame(folder / "ads.parquet", reader.films)
        rows = external.sort(ratings, user="userId", dtype=_EVENT, records=reader.rows)
        split = reader.split(ratings)
        write_blocks(folder / "behaviors.parquet", _BEHAVIORS, reader.behaviors(rows))
        write_blocks(folder / "impressions.parquet", _IMPRESSIONS, reader.impressions())
        (folder / "schema.toml").write_text(schema_toml(*split), encoding="utf-8")
    return {**reader.counts, "ads": len(reader.films), "validation_from": split[0], "test_from": split[1]}


def _films(external: External, source: CsvFile) -> pl.DataFrame:
    """Return ads.parquet: films with all their genres as one category, `Comedy|Drama`."""
    frame = read_small(external, source, "movieId")
    known = pl.when(pl.col("genres") != NO_GENRES).then(pl.col("genres")).alias("genres")
    return frame.select(pl.col("movieId").cast(pl.UInt32).alias("ad_id"), known).sort("ad_id")


@dataclass
class _Reader:
    """Turns the ratings into behaviours and impressions, and counts them."""

    external: External
    sample: Sample
    films: pl.DataFrame
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("behaviors", "users", "impressions", "clicked"), 0)
    )
    _seconds: list[NDArray[np.uint32]] = field(default_factory=list)

    @property
    def _spool(self) -> Path:
        return self.external.scratch / "shown"

    def rows(self, frame: pl.DataFrame) -> Records:
        """Return the records of a parsed piece."""
        records = np.empty(len(frame), dtype=_EVENT)
        records["user"] = ids(frame["userId"])
        records["timestamp"] = frame["timestamp"].to_numpy()
        records["movie"] = ids(frame["movieId"])
        records["liked"] = (frame["rating"] >= LIKED_FROM).to_numpy()
        kept = records[self.sample.keeps(records["user"])]
        self._seconds.append(kept["timestamp"].copy())
        return kept

    def split(self, source: CsvFile) -> tuple[int, int]:
        """Return the seconds before which lie 80 and 90 % of the ratings.

        Raises:
            LogError: there are too few for that.

        """
        seconds = np.concatenate([np.empty(0, np.uint32), *self._seconds])
        self._seconds.clear()
        places = [int(len(seconds) * share) for share in (VALIDATION_AT, TEST_AT)]
        if places[0]:
            seconds.partition(places)
            first, second = (int(seconds[place]) for place in places)
            if seconds[: places[0]].min() < first < second:
                return first, second
        raise LogError(f"{source.path}: too few ratings of these users to be split by time into three parts")

    def behaviors(self, portions: Iterator[Records]) -> Iterator[pl.DataFrame]:
        """Yield behaviors.parquet, by user and second; ratings are kept aside for `impressions`."""
        actions = pl.Series(ACTIONS, dtype=pl.String)
        films, genres = self.films["ad_id"].to_numpy(), self.films["genres"]
        with self._spool.open("wb") as spool:
            for portion in portions:
                self.counts["users"] += int(changes(portion, "user").sum())
                for rows in slices(portion):
                    self.counts["behaviors"] += len(rows)
                    place = pl.Series(np.minimum(np.searchsorted(films, rows["movie"]), len(films) - 1))
                    listed = pl.Series(films[place.to_numpy()] == rows["movie"])
                    yield pl.DataFrame(
                        {
                            "user_id": rows["user"],
                            "timestamp": rows["timestamp"].astype(np.int64),
                            "action": actions.gather(1 - rows["liked"]),
                            "movie_id": rows["movie"],
                            "genres": genres.gather(place).set(~listed, None),
                        },
                        schema=_BEHAVIORS,
                    )
                spool.write(shown_once(portion, "movie", clicked="liked").tobytes())

    def impressions(self) -> Iterator[pl.DataFrame]:
        """Yield impressions.parquet: every rating, by user, second and film."""
        with self._spool.open("rb") as spool:
            while len(rows := np.fromfile(spool, dtype=_EVENT, count=1 << 19)):
                self.counts["impressions"] += len(rows)
                self.counts["clicked"] += int(rows["liked"].sum())
                yield pl.DataFrame(
                    {
                        "user_id": rows["user"],
                        "ad_id": rows["movie"],
                        "timestamp": rows["timestamp"].astype(np.int64),
                        "clicked": rows["liked"],
                    },
                    schema=_IMPRESSIONS,
                )
        self._spool.unlink()
