"""Reads files that hold one object per line, plain or gzipped; names file and line of what is not as it should be."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, cast

from contract.errors import LogError
from training.importers.external_log import Progress
from training.importers.memory import MEBIBYTE

_GZIP: Final = b"\x1f\x8b"
_DAMAGED: Final = (EOFError, gzip.BadGzipFile, zlib.error)
_EVERY: Final = 4096


class ObjectLines:
    """The file `name` or `name.gz` of a folder; what it is, is told by its first bytes.

    Raises:
        LogError: on construction, if there is neither.

    """

    def __init__(self, folder: Path, name: str) -> None:
        candidates = [folder / name, folder / f"{name}.gz"]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            raise LogError(f"{candidates[0]}: no such file, nor {name}.gz")
        self.path = found

    def lines(self, progress: Progress) -> Iterator[tuple[int, str]]:
        """Yield number (from 1) and text of every line that is not blank.

        Raises:
            LogError: a line that is not UTF-8, or a damaged gzip file.

        """
        total = max(self.path.stat().st_size // MEBIBYTE, 1)
        label = f"reading {self.path.name} (MiB)"
        with self.path.open("rb") as raw:
            packed = raw.read(2) == _GZIP
            raw.seek(0)
            file = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if packed else raw
            try:
                for number, line in enumerate(file, start=1):
                    if number % _EVERY == 1:
                        progress(min(raw.tell() // MEBIBYTE, total), total, label)
                    text = self._decoded(number, line)
                    if text:
                        yield number, text
            except _DAMAGED as error:
                raise LogError(f"{self.path}: is a damaged or unfinished gzip file ({error})") from error

    def refuse(self, line: int, what: str) -> LogError:
        """Return the error of one line."""
        return LogError(f"{self.path}: line {line:,}: {what}")

    def _decoded(self, number: int, line: bytes) -> str:
        try:
            return line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise self.refuse(number, "is not UTF-8; convert the file first") from error
