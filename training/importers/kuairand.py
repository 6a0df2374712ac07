"""Imports KuaiRand (27K, 1K or Pure): every video that an app showed in 31 days, and what its users made of it.

Impressions are the rows of the standard logs, behaviours the clicks. 322 million rows of the largest version are
sorted outside memory (`external_log`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from contract.errors import LogError
from training.importers.csv_chunks import ID, CsvColumn, CsvFile
from training.importers.external_log import (
    LAST_SECOND,
    External,
    Progress,
    Sample,
    changes,
    ids,
    optional_ids,
    shown_once,
    slices,
    sorted_on_disk,
)
from training.importers.kuairand_schema import ACTIONS, TEST_FROM, VALIDATION_FROM, schema_toml
from training.importers.kuairand_videos import COLUMNS, SCHEMA, Videos
from training.importers.memory import DEFAULT_MEMORY, memory_of
from training.importers.parquet_blocks import ROW_GROUP, write_blocks
from training.importers.partitions import Records

STANDARD: Final = "log_standard_4_08_to_4_21_*.csv", "log_standard_4_22_to_5_08_*.csv"
RANDOM: Final = "log_random_4_22_to_5_08_*.csv"
VIDEOS: Final = "video_features_basic_*.csv"
TEXT_PER_VIDEO: Final = 2
"""Bytes of the file of videos (about 80 a line) for each byte that making its table takes (2 x 19 a video)."""
_BIT: Final = CsvColumn("integer", low=0, high=1)
_COLUMNS: Final = {
    "user_id": ID,
    "video_id": ID,
    "time_ms": CsvColumn("integer", low=1000, high=LAST_SECOND * 1000),
    "is_click": _BIT,
    "long_view": _BIT,
    "is_rand": _BIT,
    "tab": CsvColumn("integer", low=0, high=255),
}
_ROW: Final = np.dtype(
    [
        ("user", "<u4"),
        ("timestamp", "<u4"),
        ("video", "<u4"),
        ("tab", "u1"),
        ("clicked", "u1"),
        ("long", "u1"),
        ("random", "u1"),
    ]
)
_BEHAVIORS: Final = pl.Schema(
    {
        "user_id": pl.UInt32,
        "timestamp": pl.Int64,
        "action": pl.String,
        "video_id": pl.UInt32,
        "author_id": pl.UInt32,
        "tag": pl.UInt32,
    }
)
_IMPRESSIONS: Final = pl.Schema(
    {
        "user_id": pl.UInt32,
        "ad_id": pl.UInt32,
        "timestamp": pl.Int64,
        "clicked": pl.UInt8,
        "sampling_rate": pl.Float64,
        "tab": pl.UInt8,
    }
)


def import_kuairand(
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
        raw: folder `data` of one version: the standard logs, the random log if it is there, the basic video features.
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
    sample = Sample(user_share, seed)
    paths, videos_path = _files(raw)
    logs = [CsvFile(path, _COLUMNS) for path in paths]
    listed = CsvFile(videos_path, COLUMNS, quoted=True)
    bound = memory_of(memory_bytes, reserved=listed.size // TEXT_PER_VIDEO)
    with sorted_on_disk(log, bound, progress) as (folder, external):
        videos = Videos(external, listed)
        write_blocks(folder / "ads.parquet", SCHEMA, videos.frames())
        reader = _Reader(external, sample, videos)
        rows = external.sort(*logs, user="user_id", dtype=_ROW, records=reader.rows)
        write_blocks(folder / "behaviors.parquet", _BEHAVIORS, reader.behaviors(rows))
        write_blocks(folder / "impressions.parquet", _IMPRESSIONS, reader.impressions())
        if not reader.counts["impressions"]:
            raise LogError(f"{logs[0].path}: no rows of these users; no request")
        (folder / "schema.toml").write_text(schema_toml(), encoding="utf-8")
    return {
        **reader.counts,
        "ads": len(videos),
        "validation_from": VALIDATION_FROM,
        "test_from": TEST_FROM,
    }


def _found(raw: Path, pattern: str) -> list[Path]:
    paths = sorted(raw.glob(pattern))
    if not paths:
        raise LogError(f"{raw / pattern}: no such file")
    return paths


def _files(raw: Path) -> tuple[list[Path], Path]:
    """Return the logs in time's order: the standard ones, in one or two parts each, the random one; and the videos."""
    paths = [path for pattern in STANDARD for path in _found(raw, pattern)]
    paths += sorted(raw.glob(RANDOM))
    videos = _found(raw, VIDEOS)
    versions = {path.stem.split("_part")[0].rsplit("_", 1)[1] for path in [*paths, *videos]}
    if len(versions) > 1:
        raise LogError(f"{raw}: holds several versions ({', '.join(sorted(versions))}); give a folder of one")
    return paths, videos[0]


@dataclass
class _Reader:
    """Turns the logs into behaviours and impressions, and counts them."""

    external: External
    sample: Sample
    videos: Videos
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            (
                "behaviors",
                "users",
                "requests",
                "impressions",
                "clicked",
                "dropped_duplicate_impressions",
                "random_impressions_left_out",
            ),
            0,
        )
    )

    @property
    def _spool(self) -> Path:
        return self.external.scratch / "shown"

    def rows(self, frame: pl.DataFrame) -> Records:
        """Return the records of a parsed piece."""
        records = np.empty(len(frame), dtype=_ROW)
        records["user"] = ids(frame["user_id"])
        records["timestamp"] = (frame["time_ms"] // 1000).to_numpy()
        records["video"] = ids(frame["video_id"])
        columns = {"tab": "tab", "is_click": "clicked", "long_view": "long", "is_rand": "random"}
        for name, place in columns.items():
            records[place] = frame[name].to_numpy()
        return records[self.sample.keeps(records["user"])]

    def behaviors(self, portions: Iterator[Records]) -> Iterator[pl.DataFrame]:
        """Yield behaviors.parquet, by user and second; what was shown is kept aside for `impressions`."""
        actions = pl.Series(ACTIONS, dtype=pl.String)
        with self._spool.open("wb") as spool:
            for portion in portions:
                self.counts["users"] += int(changes(portion, "user").sum())
                for some in slices(self._shown(portion)):
                    spool.write(some.tobytes())
                for rows in slices(portion[portion["clicked"] == 1]):
                    self.counts["behaviors"] += len(rows)
                    author, tag = self.videos.places(rows["video"])
                    yield pl.DataFrame(
                        {
                            "user_id": rows["user"],
                            "timestamp": rows["timestamp"].astype(np.int64),
                            "action": actions.gather(rows["long"]),
                            "video_id": rows["video"],
                            "author_id": optional_ids("author_id", author),
                            "tag": optional_ids("tag", tag),
                        },
                        schema=_BEHAVIORS,
                    )

    def impressions(self) -> Iterator[pl.DataFrame]:
        """Yield impressions.parquet: by user, second and video."""
        with self._spool.open("rb") as spool:
            while len(rows := np.fromfile(spool, dtype=_ROW, count=ROW_GROUP)):
                yield pl.DataFrame(
                    {
                        "user_id": rows["user"],
                        "ad_id": rows["video"],
                        "timestamp": rows["timestamp"].astype(np.int64),
                        "clicked": rows["clicked"],
                        # All that was shown stands there, clicked or not: nothing has to be corrected.
                        "sampling_rate": np.ones(len(rows)),
                        "tab": rows["tab"],
                    },
                    schema=_IMPRESSIONS,
                )
        self._spool.unlink()

    def _shown(self, portion: Records) -> Records:
        """Return what the app itself chose to show: a video once in a request, clicked if one of its rows was."""
        standard = portion[portion["random"] == 0]
        shown = shown_once(standard, "video")
        self.counts["random_impressions_left_out"] += len(portion) - len(standard)
        self.counts["dropped_duplicate_impressions"] += len(standard) - len(shown)
        self.counts["impressions"] += len(shown)
        self.counts["clicked"] += int(shown["clicked"].sum())
        self.counts["requests"] += int(changes(shown, "user", "timestamp").sum()) if len(shown) else 0
        return shown
