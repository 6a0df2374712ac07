"""Tables too large for memory: written part by part, then joined into one Parquet file by streaming."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import polars as pl

ROWS_PER_GROUP: Final = 1 << 18


class Parts:
    """Tables under way in `folder`; each becomes `<name>.parquet` there."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._folder = folder
        self._written: dict[str, list[Path]] = {name: [] for name in self.names}
        for name in self.names:
            self._place(name).mkdir()

    def add(self, name: str, frame: pl.DataFrame) -> None:
        """Append rows to a table."""
        path = self._place(name) / f"{len(self._written[name]):08d}.parquet"
        frame.write_parquet(path, compression="lz4")
        self._written[name].append(path)

    def join(self, name: str) -> None:
        """Write a table's one file and remove its parts; row groups are cut alike however it came in."""
        source = pl.scan_parquet(self._written[name], glob=False)  # the folder may bear any name
        source.sink_parquet(
            self._folder / f"{name}.parquet", row_group_size=ROWS_PER_GROUP, maintain_order=True
        )
        shutil.rmtree(self._place(name))

    def _place(self, name: str) -> Path:
        return self._folder / f".{name}.parts"
