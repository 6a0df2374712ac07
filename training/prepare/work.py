"""The work folder of `prepare`: what is finished of a dataset that is being made, so that a stopped one goes on.

`.<dataset>.prepare` stands beside the dataset, on the same disk. It holds pieces (folders that appear whole) and
`plan.json`, what they were made from: another log, other flags or another program find that it differs and start
afresh. The kernel's lock on it keeps a second `prepare` of the same dataset out.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contract.errors import DatasetError, InputError, LongsightError
from contract.files import atomic_folder, claimed_folder, write_json_atomic
from training.full_disk import full_disk_code

Progress: TypeAlias = Callable[[int, int | None, str], None]
Facts: TypeAlias = dict[str, Any]

PLAN: Final = "plan.json"
FACTS: Final = "facts.json"
_NO_ROOM: Final = 1 << 20  # bytes
_MAX_CHUNK: Final = 1_000_000
_MAX_PART: Final = 2_000_000
_BYTES_PER_VALUE: Final = 160  # measured: what a chunk needs at its peak, per row and column
_BYTES_PER_EVENT: Final = 400  # likewise a part, per event


@dataclass(frozen=True)
class Sizes:
    """How the work is cut; no size changes a byte of the dataset.

    Attributes:
        chunk_rows: rows of a table that are read at once.
        part_rows: events (or impressions) that are sorted at once, on average.
        workers: chunks or parts that are worked on at the same time.

    """

    chunk_rows: int
    part_rows: int
    workers: int

    @classmethod
    def within(cls, memory_bytes: int, *, columns: int, workers: int) -> "Sizes":
        """Return the sizes for so much memory, tables of at most so many columns, and so many cores."""
        each = memory_bytes // workers
        return cls(
            chunk_rows=min(_MAX_CHUNK, max(1, each // (_BYTES_PER_VALUE * columns))),
            part_rows=min(_MAX_PART, max(1, each // _BYTES_PER_EVENT)),
            workers=workers,
        )


class Work:
    """A claimed work folder.

    Args:
        path: the folder.
        edges: `[parts]` uint64 ascending from 0: part p holds the keys from edge p to the next.
        workers: threads that make pieces.
        durable: pieces shall outlive the machine's stopping, not only the program's.
        report: told (done, total, label).

    """

    def __init__(
        self, path: Path, *, edges: NDArray[np.uint64], workers: int, durable: bool, report: Progress
    ) -> None:
        self.path = path
        self.edges = edges
        self.report = report
        self._workers = workers
        self._durable = durable

    @property
    def parts(self) -> int:
        """Return how many ranges the keys are divided into."""
        return len(self.edges)

    def place(self, kind: str, index: int) -> Path:
        """Return where a piece stands, finished or not."""
        return self.path / f"{kind}-{index:06}"

    def piece(self, kind: str, index: int) -> AbstractContextManager[Path]:
        """Yield the folder of a new piece; it appears under its name once it is whole and on disk."""
        return atomic_folder(self.place(kind, index), marker=None, flush=self._durable)

    def facts(self, kind: str) -> list[Facts]:
        """Return what the pieces of a kind note about themselves, in their order."""
        return [json.loads((folder / FACTS).read_text(encoding="utf-8")) for folder in self.pieces(kind)]

    def pieces(self, kind: str) -> list[Path]:
        """Return the finished pieces of a kind, in their order."""
        return sorted(self.path.glob(f"{kind}-*"))

    def drop(self, kind: str) -> None:
        """Remove the pieces of a kind."""
        for folder in self.pieces(kind):
            shutil.rmtree(folder)

    def make(self, kind: str, count: int, build: Callable[[int], None], *, label: str) -> None:
        """Build the pieces of a kind that are not there yet; of several failures the first piece's is raised."""
        missing = [index for index in range(count) if not self.place(kind, index).exists()]
        self.report(count - len(missing), count, label)
        with ThreadPoolExecutor(self._workers) as pool:
            futures = [pool.submit(build, index) for index in missing]
            try:
                for done, future in enumerate(futures, start=count - len(missing) + 1):
                    future.result()
                    self.report(done, count, label)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def claimed_work(
    dataset: Path, made_from: Facts, *, parts: int, workers: int, report: Progress
) -> Iterator[Work]:
    """Yield the work folder beside `dataset`, emptied unless it was begun from just the same.

    It is removed on success and where the input is wrong, and stays after any other failure. A log of one part is
    quickly made again: its pieces are not waited for to reach the disk, and not gone on from.

    Raises:
        DatasetError: another process is preparing the same dataset.
        LongsightError: the disk is full.

    """
    path = dataset.with_name(f".{dataset.name}.prepare")
    with claimed_folder(path) as ours, _full_disk_named(path):
        if not ours:
            raise DatasetError(
                f"{dataset}: another prepare is writing it; wait until it has ended, or give another name"
            )
        if parts == 1 or _read_plan(path) != made_from:
            _empty(path)
            write_json_atomic(path / PLAN, made_from)
        edges = np.array([(part << 64) // parts for part in range(parts)], dtype=np.uint64)
        try:
            yield Work(path, edges=edges, workers=workers, durable=parts > 1, report=report)
        except InputError as error:
            if full_disk_code(error) is None:
                shutil.rmtree(path)
            raise
        shutil.rmtree(path)


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write one .npy file as `numpy.save` does, but so that a full disk is told from other errors."""
    with path.open("wb") as file:
        write_header(file, array.dtype, len(array))
        file.write(np.ascontiguousarray(array).view(np.uint8).data)


def write_header(file: Any, dtype: np.dtype[Any], count: int) -> None:  # noqa: ANN401 - any binary file
    """Write the head of a .npy file of one dimension."""
    head = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, head)


def array_length(path: Path) -> int:
    """Return the number of elements of a .npy file of one dimension."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
    return int(shape[0])


def _read_plan(path: Path) -> Facts | None:
    try:
        plan: Facts = json.loads((path / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return plan


def _empty(path: Path) -> None:
    for entry in path.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@contextmanager
def _full_disk_named(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        code = full_disk_code(error)
        if isinstance(error, pl.exceptions.PolarsError) and shutil.disk_usage(path).free < _NO_ROOM:
            code = errno.ENOSPC  # of a failed write of its own polars may say no more than "transport error"
        if code is None:
            raise
        raise LongsightError(
            f"{path.parent}: can't write more ({os.strerror(code)}); free space on this disk and run the same command "
            f"again: it goes on from what is finished, kept in {path.name} (or give another DATASET and remove that)"
        ) from error
