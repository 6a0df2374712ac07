"""Imports the Taobao display-ad data (Tianchi data set 56): eight days of shown ads, 22 days of behaviours.

723 million behaviours do not fit in memory: they are sorted outside it (`external_log`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contract.errors import LogError
from training.importers.csv_chunks import ID, OPTIONAL_ID, STAMP, CsvColumn, CsvFile, Rule
from training.importers.external_log import (
    LAST_SECOND,
    External,
    Progress,
    Sample,
    changes,
    codes,
    ids,
    optional_ids,
    read_small,
    shown_once,
    slices,
    sorted_on_disk,
    within_calendar,
)
from training.importers.memory import DEFAULT_MEMORY, memory_of
from training.importers.parquet_blocks import write_blocks, write_frame
from training.importers.partitions import Records
from training.importers.taobao_ad_schema import ACTIONS, TEST_FROM, USER_FIELDS, VALIDATION_FROM, schema_toml

BTAGS: Final = (*ACTIONS, "ipv")
"""`ipv` is how some copies of the data set spell `pv`."""
MOST_PIDS: Final = 1_000
"""The data set has two."""
_BIT: Final = CsvColumn("integer", low=0, high=1)
_COLUMNS: Final = {
    "raw_sample": {
        "user": ID,
        "time_stamp": CsvColumn("integer", low=1, high=LAST_SECOND),
        "adgroup_id": ID,
        "pid": CsvColumn("text"),
        "nonclk": _BIT,
        "clk": _BIT,
    },
    "ad_feature": {
        "adgroup_id": ID,
        "cate_id": ID,
        "campaign_id": ID,
        "customer": ID,
        "brand": OPTIONAL_ID,
        "price": CsvColumn("number", nullable=True, low=0, high=1e30),
    },
    "user_profile": {"userid": ID, **dict.fromkeys(USER_FIELDS, OPTIONAL_ID)},
    "behavior_log": {
        "user": ID,
        "time_stamp": STAMP,
        "btag": CsvColumn("text", values=BTAGS),
        "cate": ID,
        "brand": OPTIONAL_ID,
    },
}
_RULES: Final = {"raw_sample": Rule("nonclk is not 1 - clk", lambda frame: frame["nonclk"] == frame["clk"])}
_EVENT: Final = np.dtype(
    [("user", "<u4"), ("timestamp", "<u4"), ("cate", "<u4"), ("brand", "<u4"), ("action", "u1")]
)
_SHOWN: Final = np.dtype(
    [("user", "<u4"), ("timestamp", "<u4"), ("ad", "<u4"), ("pid", "<u2"), ("clicked", "u1")]
)
_BEHAVIORS: Final = pl.Schema(
    {
        "user_id": pl.UInt32,
        "timestamp": pl.Int64,
        "action": pl.String,
        "cate": pl.UInt32,
        "brand": pl.UInt32,
    }
)
_IMPRESSIONS: Final = pl.Schema(
    {
        "user_id": pl.UInt32,
        "ad_id": pl.UInt32,
        "timestamp": pl.Int64,
        "clicked": pl.UInt8,
        "sampling_rate": pl.Float64,
        "pid": pl.String,
    }
)


def import_taobao_ad(
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
        raw: folder of raw_sample.csv, ad_feature.csv, user_profile.csv and behavior_log.csv.
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
    bound, sample = memory_of(memory_bytes), Sample(user_share, seed)
    # All four are opened first: a missing file is not found out an hour later.
    sources = {
        name: CsvFile(raw / f"{name}.csv", columns, rule=_RULES.get(name))
        for name, columns in _COLUMNS.items()
    }
    with sorted_on_disk(log, bound, progress) as (folder, external):
        reader = _Reader(external, sample)
        ads = reader.ads(sources["ad_feature"])
        write_frame(folder / "ads.parquet", ads)
        users = reader.users(sources["user_profile"])
        write_frame(folder / "users.parquet", users)
        impressions = reader.impressions(sources["raw_sample"], users["user_id"])
        write_blocks(folder / "impressions.parquet", _IMPRESSIONS, impressions)
        behaviors = reader.behaviors(sources["behavior_log"])
        write_blocks(folder / "behaviors.parquet", _BEHAVIORS, behaviors)
        if not reader.counts["impressions"]:
            raise LogError(f"{sources['raw_sample'].path}: no rows of these users; no request")
        if not reader.counts["behaviors"]:
            raise LogError(f"{sources['behavior_log'].path}: no rows of these users; no history")
        (folder / "schema.toml").write_text(schema_toml(), encoding="utf-8")
    return {
        **reader.counts,
        "ads": len(ads),
        "profiles": len(users),
        "validation_from": VALIDATION_FROM,
        "test_from": TEST_FROM,
    }


@dataclass
class _Reader:
    """Turns the four files into the tables of a log, and counts what it keeps and drops."""

    external: External
    sample: Sample
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            (
                "behaviors",
                "dropped_behaviors_without_time",
                "impressions",
                "dropped_duplicate_impressions",
                "clicked",
                "requests",
                "users",
                "users_without_profile",
            ),
            0,
        )
    )

    def ads(self, source: CsvFile) -> pl.DataFrame:
        frame = read_small(self.external, source, "adgroup_id")
        numbers = pl.col("adgroup_id", "cate_id", "campaign_id", "customer", "brand").cast(pl.UInt32)
        return frame.with_columns(numbers).rename({"adgroup_id": "ad_id"})

    def users(self, source: CsvFile) -> pl.DataFrame:
        frame = read_small(self.external, source, "userid").cast(pl.UInt32).rename({"userid": "user_id"})
        return frame.filter(pl.Series(self.sample.keeps(frame["user_id"].to_numpy())))

    def impressions(self, source: CsvFile, profiles: pl.Series) -> Iterator[pl.DataFrame]:
        """Read everything, then return impressions.parquet: by user, second and ad, which a request holds once."""
        pids: dict[str, int] = {}
        portions = self.external.sort(
            source, user="user", dtype=_SHOWN, records=lambda frame: self._shown(frame, pids)
        )
        return self._impressions(portions, profiles.to_numpy(), list(pids))

    def behaviors(self, source: CsvFile) -> Iterator[pl.DataFrame]:
        """Read everything, then return behaviors.parquet: by user and second."""
        return self._behaviors(self.external.sort(source, user="user", dtype=_EVENT, records=self._events))

    def _impressions(
        self, portions: Iterator[Records], known: NDArray[np.uint32], names: list[str]
    ) -> Iterator[pl.DataFrame]:
        for portion in portions:
            shown = shown_once(portion, "ad")
            users = shown["user"][changes(shown, "user")]
            self.counts["impressions"] += len(shown)
            self.counts["dropped_duplicate_impressions"] += len(portion) - len(shown)
            self.counts["clicked"] += int(shown["clicked"].sum())
            self.counts["requests"] += int(changes(shown, "user", "timestamp").sum())
            self.counts["users"] += len(users)
            self.counts["users_without_profile"] += int((~np.isin(users, known)).sum())
            for rows in slices(shown):
                yield pl.DataFrame(
                    {
                        "user_id": rows["user"],
                        "ad_id": rows["ad"],
                        "timestamp": rows["timestamp"].astype(np.int64),
                        "clicked": rows["clicked"],
                        # Whatever was shown stands there, clicked or not: nothing has to be corrected.
                        "sampling_rate": np.ones(len(rows)),
                        "pid": pl.Series(names, dtype=pl.String).gather(rows["pid"]),
                    },
                    schema=_IMPRESSIONS,
                )

    def _behaviors(self, portions: Iterator[Records]) -> Iterator[pl.DataFrame]:
        actions = pl.Series(ACTIONS, dtype=pl.String)
        for portion in portions:
            self.counts["behaviors"] += len(portion)
            for rows in slices(portion):
                yield pl.DataFrame(
                    {
                        "user_id": rows["user"],
                        "timestamp": rows["timestamp"].astype(np.int64),
                        "action": actions.gather(rows["action"]),
                        "cate": rows["cate"],
                        "brand": optional_ids("brand", rows["brand"]),
                    },
                    schema=_BEHAVIORS,
                )

    def _shown(self, frame: pl.DataFrame, pids: dict[str, int]) -> Records:
        for pid in frame["pid"].unique(maintain_order=True):
            pids.setdefault(pid, len(pids))
        if len(pids) > MOST_PIDS:
            raise LogError(
                f"raw_sample.csv: column 'pid' has more than {MOST_PIDS:,} values; it names placements"
            )
        records = np.empty(len(frame), dtype=_SHOWN)
        records["user"] = ids(frame["user"])
        records["timestamp"] = frame["time_stamp"].to_numpy()
        records["ad"] = ids(frame["adgroup_id"])
        records["pid"] = frame["pid"].replace_strict(pids, return_dtype=pl.UInt16).to_numpy()
        records["clicked"] = frame["clk"].to_numpy()
        return records[self.sample.keeps(records["user"])]

    def _events(self, frame: pl.DataFrame) -> Records:
        timed = within_calendar(frame["time_stamp"])
        records = np.empty(len(frame), dtype=_EVENT)
        records["user"] = ids(frame["user"])
        records["timestamp"] = frame["time_stamp"].clip(0, LAST_SECOND).to_numpy()
        records["cate"] = ids(frame["cate"])
        records["brand"] = ids(frame["brand"])
        action = codes(frame["btag"], BTAGS)
        records["action"] = np.where(action == len(ACTIONS), 0, action)
        sampled = self.sample.keeps(records["user"])
        self.counts["dropped_behaviors_without_time"] += int((sampled & ~timed).sum())
        return records[sampled & timed]
