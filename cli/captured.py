"""Reads files of captured requests, all of them as one: in the order in which the requests came."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from contract.errors import InputError
from service.capture.record import Captured, CaptureError, parse

ROTATED: Final = re.compile(r"[^.].*\.jsonl(\.\d+)?")


@dataclass(frozen=True)
class CaptureFiles:
    """Captured requests in open files; those that are rotated away meanwhile stay readable.

    Attributes:
        places: when each came, its file, where its line begins there; the oldest first.
        cut: files whose last line was cut off.

    """

    files: Sequence[BinaryIO]
    places: Sequence[tuple[float, int, int]]
    cut: Sequence[str]

    def __len__(self) -> int:
        return len(self.places)

    def evenly(self, limit: int | None) -> Iterator[Captured]:
        """Yield the requests, or so many of them, evenly spread from the first to the last."""
        count = len(self.places) if limit is None else min(limit, len(self.places))
        for number in range(count):
            _, index, offset = self.places[
                round(number * (len(self.places) - 1) / (count - 1)) if count > 1 else 0
            ]
            file = self.files[index]
            file.seek(offset)
            yield parse(file.readline())


@contextlib.contextmanager
def open_captures(paths: Sequence[Path]) -> Iterator[CaptureFiles]:
    """Open files of captured requests, and those in folders, and look at every line.

    Raises:
        CaptureError: a file can't be read or a line is no captured request (says which), or there is none at all.

    """
    with contextlib.ExitStack() as stack:
        files: list[BinaryIO] = []
        places: list[tuple[float, int, int]] = []
        cut: list[str] = []
        for index, path in enumerate(_files(paths)):
            try:
                file = stack.enter_context(path.open("rb"))
                found, whole = _places(file, path)
            except OSError as error:
                raise CaptureError(f"{path} can't be read: {error.strerror}") from error
            files.append(file)
            places += [(at, index, offset) for at, offset in found]
            if not whole:
                cut.append(str(path))
        if not places:
            raise CaptureError(f"{', '.join(map(str, paths))}: no captured request in there")
        yield CaptureFiles(files, sorted(places), cut)


def _files(paths: Sequence[Path]) -> list[Path]:
    """Return the files that are meant, each once."""
    found: dict[Path, Path] = {}
    for path in paths:
        try:
            inside = (
                sorted(file for file in path.iterdir() if ROTATED.fullmatch(file.name))
                if path.is_dir()
                else [path]
            )
        except OSError as error:
            raise CaptureError(f"{path} can't be read: {error.strerror}") from error
        if not inside:
            raise CaptureError(f"{path}: no file of captured requests in there (*.jsonl, *.jsonl.1, ...)")
        for file in inside:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _places(file: BinaryIO, path: Path) -> tuple[list[tuple[float, int]], bool]:
    """Return when the requests came and where their lines begin, and whether the last line is whole."""
    found: list[tuple[float, int]] = []
    offset = 0
    for number, line in enumerate(file, start=1):
        if not line.endswith(b"\n"):
            return found, False
        try:
            found.append((parse(line).at, offset))
        except InputError as error:
            raise CaptureError(
                f"{path}: line {number} is no captured request ({error}); "
                "files of them are written by `serve` with capture.path"
            ) from error
        offset += len(line)
    return found, True
