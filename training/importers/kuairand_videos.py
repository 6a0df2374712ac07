"""The videos of KuaiRand as a compact table in memory: 19 bytes each, 32 million of them in the largest version."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contract.errors import LogError
from training.importers.csv_chunks import ID, LARGEST_ID, OPTIONAL_ID, CsvColumn, CsvFile
from training.importers.external_log import MISSING, External, changes, ids, optional_ids, slices
from training.importers.partitions import Records

COLUMNS: Final = {
    "video_id": ID,
    "author_id": OPTIONAL_ID,
    "video_type": CsvColumn("text", nullable=True),
    "upload_type": CsvColumn("text", nullable=True),
    "video_duration": CsvColumn("number", nullable=True, low=0, high=1e12),
    "tag": CsvColumn("text", nullable=True),
}
SCHEMA: Final = pl.Schema(
    {
        "ad_id": pl.UInt32,
        "author_id": pl.UInt32,
        "tag": pl.UInt32,
        "video_type": pl.String,
        "upload_type": pl.String,
        "duration_s": pl.Float32,
    }
)
_VIDEO: Final = np.dtype(
    [
        ("video", "<u4"),
        ("author", "<u4"),
        ("tag", "<u4"),
        ("type", "u1"),
        ("upload", "u1"),
        ("duration_s", "<f4"),
    ]
)
_FIRST_TAG: Final = r"^\s*([0-9]{1,9})"
MOST_WORDS: Final = 255


class Videos:
    """Author, first tag, types and length of every video.

    Raises:
        LogError: on construction, if the file is not as it should be, or a video stands there twice.

    """

    def __init__(self, external: External, source: CsvFile) -> None:
        self._types: dict[str | None, int] = {}
        self._uploads: dict[str | None, int] = {}
        parts = [np.empty(0, _VIDEO), *(self._compact(frame, source) for frame in external.frames(source))]
        self._table: Records = np.concatenate(parts)
        parts.clear()
        order = np.argsort(self._table["video"], kind="stable")
        for name in _VIDEO.names or ():  # one column after another, so that there is no third table
            self._table[name] = self._table[name][order]
        again = np.flatnonzero(~changes(self._table, "video"))
        if len(again):
            raise LogError(
                f"{source.path}: column 'video_id': {self._table['video'][again[0]]} stands there twice"
            )

    def __len__(self) -> int:
        return len(self._table)

    def places(self, videos: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Return author and tag of each video, MISSING where it has none or is not listed."""
        if not len(self._table):
            return np.full(len(videos), MISSING, np.uint32), np.full(len(videos), MISSING, np.uint32)
        place = np.minimum(np.searchsorted(self._table["video"], videos), len(self._table) - 1)
        listed = self._table["video"][place] == videos
        return (
            np.where(listed, self._table["author"][place], np.uint32(MISSING)),
            np.where(listed, self._table["tag"][place], np.uint32(MISSING)),
        )

    def frames(self) -> Iterator[pl.DataFrame]:
        """Yield ads.parquet, by video."""
        types, uploads = (pl.Series(list(words), dtype=pl.String) for words in (self._types, self._uploads))
        for rows in slices(self._table):
            yield pl.DataFrame(
                {
                    "ad_id": rows["video"],
                    "author_id": optional_ids("author_id", rows["author"]),
                    "tag": optional_ids("tag", rows["tag"]),
                    "video_type": types.gather(rows["type"]),
                    "upload_type": uploads.gather(rows["upload"]),
                    "duration_s": pl.Series(rows["duration_s"]).fill_nan(None),
                },
                schema=SCHEMA,
            )

    def _compact(self, frame: pl.DataFrame, source: CsvFile) -> Records:
        table = np.empty(len(frame), dtype=_VIDEO)
        table["video"] = ids(frame["video_id"])
        table["author"] = ids(frame["author_id"])
        # Several tags stand there as "12,65": the first one is the main one.
        table["tag"] = ids(frame["tag"].str.extract(_FIRST_TAG).cast(pl.Int64).clip(upper_bound=LARGEST_ID))
        table["type"] = _coded(frame["video_type"], self._types, source)
        table["upload"] = _coded(frame["upload_type"], self._uploads, source)
        table["duration_s"] = (frame["video_duration"] / 1000).fill_null(float("nan")).to_numpy()
        return table


def _coded(series: pl.Series, words: dict[str | None, int], source: CsvFile) -> NDArray[np.uint8]:
    """Return each text's number in `words`, which grows as new ones come up."""
    for word in series.unique(maintain_order=True):
        words.setdefault(word, len(words))
    if len(words) > MOST_WORDS:
        raise LogError(
            f"{source.path}: column {series.name!r} has more than {MOST_WORDS} values; it names types"
        )
    return series.replace_strict(words, return_dtype=pl.UInt8).to_numpy()
