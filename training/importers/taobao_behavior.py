"""Imports Taobao's UserBehavior.csv (Tianchi data set 649): nine days of clicks, carts, favourites and purchases.

The log shows no impressions; the click task that is made of it is described in `taobao_targets`. 100 million
rows are sorted outside memory (`external_log`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contract.errors import InputError, LogError
from training.importers.csv_chunks import ID, STAMP, CsvColumn, CsvFile
from training.importers.external_log import (
    External,
    Progress,
    Sample,
    by_user,
    changes,
    codes,
    ids,
    slices,
    sorted_on_disk,
    within_calendar,
)
from training.importers.memory import DEFAULT_MEMORY, MEGABYTE, memory_of
from training.importers.negatives import NegativesSpec, parse_negatives
from training.importers.parquet_blocks import ROW_GROUP, write_blocks, write_frame
from training.importers.partitions import Records
from training.importers.tally import Tally
from training.importers.taobao_targets import CHOSEN, Items, Task
from training.schema_text import Axis, Exact, Field, schema_text

ACTIONS: Final = ("pv", "cart", "fav", "buy")
DAY_S: Final = 86_400
WINDOW_FROM: Final = 1_511_539_200
"""2017-11-25 00:00 in China; the data set says it spans nine days, a few rows lie years away."""
WINDOW_END: Final = WINDOW_FROM + 9 * DAY_S
VALIDATION_FROM: Final = WINDOW_FROM + 7 * DAY_S
TEST_FROM: Final = WINDOW_FROM + 8 * DAY_S
ITEMS_BYTES: Final = 400 * MEGABYTE
"""Kept of the memory for counting items: 80 bytes for each of five million (the data set has 4.2 million)."""
_COLUMNS: Final = {
    "user_id": ID,
    "item_id": ID,
    "category_id": ID,
    "behavior_type": CsvColumn("text", values=ACTIONS),
    "timestamp": STAMP,
}
_EVENT: Final = np.dtype(
    [("user", "<u4"), ("timestamp", "<u4"), ("item", "<u4"), ("category", "<u4"), ("action", "u1")]
)
_BEHAVIORS: Final = pl.Schema(
    {
        "user_id": pl.UInt32,
        "timestamp": pl.Int64,
        "action": pl.String,
        "item_id": pl.UInt32,
        "category": pl.UInt32,
    }
)
_IMPRESSIONS: Final = pl.Schema(
    {"user_id": pl.UInt32, "ad_id": pl.UInt32, "timestamp": pl.Int64, "clicked": pl.UInt8}
)


def schema_toml(negatives: NegativesSpec) -> str:
    """Return the text of `schema.toml`."""
    drawn = "by clicks" if negatives.kind == "popular" else "evenly"
    return schema_text(
        [
            "Taobao UserBehavior: which of these items does this user click next?",
            f"Nothing was shown: beside each click stand {negatives.per_trip} items drawn {drawn} (training days).",
        ],
        Axis(
            VALIDATION_FROM,
            TEST_FROM,
            "days in China; 2017-11-25 to 12-01 train, 12-02 validation, 12-03 test",
        ),
        actions=ACTIONS,
        vocabularies={"item": Exact(5, 64), "category": Exact(1, 8)},
        fields=(
            Field("behavior", "item_id", "item"),
            Field("behavior", "category", "category"),
            Field("ad", "ad_id", "item", matches="item_id"),
            Field("ad", "category", "category", matches="category"),
        ),
    )


def import_taobao_behavior(
    raw: Path,
    log: Path,
    *,
    memory_bytes: int = DEFAULT_MEMORY,
    negatives: str = "popular:4",
    targets: int = 2,
    min_history: int = 20,
    user_share: float = 1.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Write the log folder `log`, whole or not at all, and return the counts of what went into it.

    Args:
        raw: folder of UserBehavior.csv.
        log: replaced if it is a log folder; on any error it stays as it was.
        memory_bytes: bound on this process's memory.
        negatives: `popular:K` (by clicks in the training days) or `uniform:K` (any item clicked in them).
        targets: most requests of one user in each split.
        min_history: events that a user must have had before a request.
        user_share: keep everything of about this share of the users; items are counted over all of them.
        seed: of every draw; same seed, same bytes, whatever `memory_bytes`.
        progress: told `(done, in all, what is being done)`.

    Raises:
        InputError: a bad argument, or `log` is something other than a log folder.
        LogError: the raw file is missing or not as it should be: names file, line and column.
        LongsightError: no room on the disk.

    """
    bound = memory_of(memory_bytes, reserved=ITEMS_BYTES)
    sample, spec = Sample(user_share, seed), parse_negatives(negatives)
    if targets < 1 or min_history < 1:
        raise InputError(f"--targets {targets} and --min-history {min_history}: expected at least 1")
    source = CsvFile(raw / "UserBehavior.csv", _COLUMNS, header=False)
    task = Task((VALIDATION_FROM, TEST_FROM), targets, min_history, spec.per_trip, seed)
    with sorted_on_disk(log, bound, progress) as (folder, external):
        reader = _Reader(external, sample, task, spec.kind)
        write_blocks(folder / "behaviors.parquet", _BEHAVIORS, reader.behaviors(source))
        write_blocks(folder / "impressions.parquet", _IMPRESSIONS, reader.impressions())
        write_frame(folder / "ads.parquet", reader.ads())
        if not reader.counts["impressions"]:
            raise LogError(f"{source.path}: no click has {min_history} events before it; no request")
        (folder / "schema.toml").write_text(schema_toml(spec), encoding="utf-8")
    return {
        "negatives": negatives,
        "seed": seed,
        **reader.counts,
        "validation_from": VALIDATION_FROM,
        "test_from": TEST_FROM,
    }


@dataclass
class _Reader:
    """Turns the file into the tables of a log, and counts what it keeps and drops."""

    external: External
    sample: Sample
    task: Task
    kind: str
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            (
                "behaviors",
                "dropped_behaviors_outside_the_nine_days",
                "users",
                "requests",
                "impressions",
                "clicked",
                "ads",
                "ads_of_several_categories",
            ),
            0,
        )
    )
    _clicked: Tally = field(default_factory=Tally)
    _ads: pl.DataFrame = field(default_factory=pl.DataFrame)

    @property
    def _spool(self) -> Path:
        return self.external.scratch / "requests"

    def behaviors(self, source: CsvFile) -> Iterator[pl.DataFrame]:
        """Read everything, then return behaviors.parquet: by user and second; the requests are chosen on the way."""
        portions = self.external.sort(source, user="user_id", dtype=_EVENT, records=self._events)
        return self._behaviors(portions, self._items(source))

    def _behaviors(self, portions: Iterator[Records], items: Items) -> Iterator[pl.DataFrame]:
        actions = pl.Series(ACTIONS, dtype=pl.String)
        with self._spool.open("wb") as spool:
            for portion in portions:
                for users in by_user(portion):
                    self._choose(users, items, spool)
                for rows in slices(portion):
                    yield pl.DataFrame(
                        {
                            "user_id": rows["user"],
                            "timestamp": rows["timestamp"].astype(np.int64),
                            "action": actions.gather(rows["action"]),
                            "item_id": rows["item"],
                            "category": rows["category"],
                        },
                        schema=_BEHAVIORS,
                    )

    def impressions(self) -> Iterator[pl.DataFrame]:
        """Yield impressions.parquet: by user, second and item, so the order tells nothing of the label."""
        with self._spool.open("rb") as spool:
            while len(rows := np.fromfile(spool, dtype=CHOSEN, count=ROW_GROUP)):
                yield pl.DataFrame(
                    {
                        "user_id": rows["user"],
                        "ad_id": rows["item"],
                        "timestamp": rows["timestamp"].astype(np.int64),
                        "clicked": rows["clicked"],
                    },
                    schema=_IMPRESSIONS,
                )
        self._spool.unlink()

    def ads(self) -> pl.DataFrame:
        """Return ads.parquet: items clicked in the training days, with the category of most of those clicks."""
        return self._ads

    def _events(self, frame: pl.DataFrame) -> Records:
        inside = within_calendar(frame["timestamp"], WINDOW_FROM, WINDOW_END - 1)
        sampled = self.sample.keeps(ids(frame["user_id"]))
        self.counts["dropped_behaviors_outside_the_nine_days"] += int((sampled & ~inside).sum())
        frame = frame.filter(pl.Series(inside))
        records = np.empty(len(frame), dtype=_EVENT)
        records["user"] = ids(frame["user_id"])
        records["timestamp"] = frame["timestamp"].to_numpy()
        records["item"] = ids(frame["item_id"])
        records["category"] = ids(frame["category_id"])
        records["action"] = codes(frame["behavior_type"], ACTIONS)
        trained = records[(records["action"] == 0) & (records["timestamp"] < VALIDATION_FROM)]
        pairs = trained["item"].astype(np.uint64) << np.uint64(32) | trained["category"]
        self._clicked.add(pairs)
        return records[self.sample.keeps(records["user"])]

    def _items(self, source: CsvFile) -> Items:
        """Return what was clicked in the training days; its table of ads is kept for `ads`."""
        pairs, clicks = self._clicked.result()
        if not len(pairs):
            raise LogError(f"{source.path}: no row of type pv from 2017-11-25 to 12-01 in China; no request")
        item = (pairs >> np.uint64(32)).astype(np.uint32)
        category = (pairs & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        first = np.flatnonzero(np.append(True, item[1:] != item[:-1]))
        # Of several categories the most clicked one; of equals the smallest (lexsort is stable).
        most = np.lexsort((-clicks, item))[first]
        self._ads = pl.DataFrame({"ad_id": item[first], "category": category[most]})
        self.counts["ads"] = len(first)
        self.counts["ads_of_several_categories"] = int((np.diff(np.append(first, len(item))) > 1).sum())
        weight: NDArray[np.int64] = np.add.reduceat(clicks, first)
        return Items(item[first], weight if self.kind == "popular" else np.ones_like(weight))

    def _choose(self, portion: Records, items: Items, spool: BinaryIO) -> None:
        chosen = self.task.requests(portion, items, portion["action"] == 0)
        spool.write(chosen.tobytes())
        self.counts["behaviors"] += len(portion)
        self.counts["users"] += int(changes(portion, "user").sum())
        self.counts["impressions"] += len(chosen)
        self.counts["clicked"] += int(chosen["clicked"].sum())
        self.counts["requests"] += int(chosen["clicked"].sum())
