"""A dataset folder: everyone's packed history once, and requests that are slices of it.

| file | holds |
|---|---|
| `dataset.json` | format, schema with split, history lag, sampling, counts, fingerprint; written last |
| `records.npy` | packed behaviours, user after user, each run sorted by time |
| `user_keys.npy`, `user_offsets.npy`, `user.names`, `user_<field>.npy` | users by ascending key |
| `ad_keys.npy`, `ad.names`, `ad_<field>.npy` | ads by ascending key |
| `requests.npy` | `REQUEST` rows: user, history slice, time, impression rows, split |
| `row_*.npy` | impression rows, request-major: ad, clicked, rate, packed context, row of the log |
| `vocabulary_<name>_keys.npy`, `.names` | every id of a vocabulary and its raw text |
| `impressions.parquet` | the log's own ids, in the log's order, for predictions |

A history is a slice of `records`: nothing is copied or padded on disk, whatever its length.
"""

import hashlib
import json
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contract.encoder import Array
from contract.errors import DatasetError, InputError
from contract.records import Records, record_dtype
from contract.schema import Group, Schema, Split
from contract.vocabulary import NameTable

FORMAT: Final = 1
MARKER: Final = "dataset.json"
SPLITS: Final = ("train", "validation", "test")
REQUEST: Final = np.dtype(
    [
        ("user", "<i8"),
        ("start", "<i8"),
        ("end", "<i8"),
        ("timestamp", "<i8"),
        ("first_row", "<i8"),
        ("rows", "<i8"),
        ("split", "u1"),
    ]
)

UNREADABLE: Final = (OSError, ValueError, EOFError, zipfile.BadZipFile)
"""What numpy raises at a file that is no array: which of them depends on its first bytes."""

SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Dataset:
    """An opened dataset folder; arrays are memory-mapped on first use."""

    path: Path
    manifest: dict[str, Any]
    schema: Schema

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a dataset folder.

        Raises:
            DatasetError: it is missing, unfinished, of another format, or its arrays don't fit its schema.

        """
        marker = path / MARKER
        try:
            manifest = json.loads(marker.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DatasetError(f"{marker}: no such file; run `longsight prepare LOG {path}` first") from error
        except (json.JSONDecodeError, UnicodeDecodeError, OSError, RecursionError) as error:
            raise DatasetError(f"{marker}: not readable: {error}; prepare the dataset again") from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise DatasetError(f"{marker}: not of format {FORMAT}; prepare the dataset again")
        dataset = cls(path, manifest, Schema.from_json(manifest.get("schema", {}), place=str(marker)))
        dataset._check()
        return dataset

    def _check(self) -> None:
        if self.records.dtype != record_dtype(self.schema):
            raise DatasetError(
                f"{self.path / 'records.npy'}: does not fit the schema; prepare the dataset again"
            )
        if self.requests.dtype != REQUEST:
            raise DatasetError(
                f"{self.path / 'requests.npy'}: not a request table; prepare the dataset again"
            )
        rows = int(self.requests["rows"].sum())
        if not rows == len(self.row("ad")) == len(self.row("clicked")) == len(self.row("rate")):
            raise DatasetError(f"{self.path}: arrays of different lengths; prepare the dataset again")

    @property
    def split(self) -> Split:
        """The times that divide training, validation and test."""
        if self.schema.split is None:
            raise DatasetError(f"{self.path / MARKER}: no split; prepare the dataset again")
        return self.schema.split

    @property
    def history_lag_s(self) -> int:
        """Seconds by which every history ends before its request."""
        return int(self.manifest["history_lag_s"])

    @property
    def fingerprint(self) -> str:
        """Hex digest of every array."""
        return str(self.manifest["fingerprint"])

    @cached_property
    def records(self) -> Records:
        """`[events]` packed behaviours."""
        return self.array("records")

    @cached_property
    def requests(self) -> NDArray[np.void]:
        """`[requests]` of dtype `REQUEST`, by user and time."""
        return self.array("requests")

    @cached_property
    def user_keys(self) -> NDArray[np.uint64]:
        """`[users]` ascending."""
        return self.array("user_keys")

    @cached_property
    def ad_keys(self) -> NDArray[np.uint64]:
        """`[ads]` ascending."""
        return self.array("ad_keys")

    def requests_of(self, split: SplitName) -> NDArray[np.int64]:
        """Return the indices of a split's requests.

        Raises:
            DatasetError: the split is empty.

        """
        found = np.flatnonzero(self.requests["split"] == SPLITS.index(split))
        if not found.size:
            raise DatasetError(f"{self.path}: no request in the {split} split; check [split] against the log")
        return found

    def rows_of(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the impression rows of requests, request after request."""
        requests = self.requests[chosen]
        counts = requests["rows"]
        first = requests["first_row"] - np.concatenate([[0], np.cumsum(counts)[:-1]])
        rows: NDArray[np.int64] = np.repeat(first, counts) + np.arange(int(counts.sum()))
        return rows

    def request_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the request of each impression row."""
        found: NDArray[np.int64] = np.searchsorted(self.requests["first_row"], rows, side="right") - 1
        return found

    def column(self, group: Group, name: str) -> Array:
        """Return the packed column of an ad, user (per id) or context (per row) field."""
        return self.array(f"row_context_{name}" if group == "context" else f"{group}_{name}")

    def row(self, name: str) -> Array:
        """Return a column of the impression rows: ad, clicked, rate, log_row."""
        return self.array(f"row_{name}")

    def names(self, kind: Literal["ad", "user"]) -> NameTable:
        """Return the raw texts of ads or users by key."""
        return self._names(f"{kind}.names", self.ad_keys if kind == "ad" else self.user_keys)

    def texts(self, vocabulary: str) -> NameTable:
        """Return the raw texts of all ids of a vocabulary by key."""
        known = self.array(f"vocabulary_{vocabulary}_keys")
        return self._names(f"vocabulary_{vocabulary}.names", known)

    def impressions(self) -> pl.DataFrame:
        """Return the log's ids, times and labels in the log's order.

        Raises:
            DatasetError: the file is missing or damaged.

        """
        path = self.path / "impressions.parquet"
        try:
            return pl.read_parquet(path, glob=False)
        except (pl.exceptions.PolarsError, OSError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DatasetError(f"{path}: not readable ({reason}); prepare the dataset again") from error

    def array(self, name: str) -> Array:
        """Map one array.

        Raises:
            DatasetError: it is missing or damaged.

        """
        path = self.path / f"{name}.npy"
        try:
            mapped: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        except UNREADABLE as error:
            raise DatasetError(
                f"{path}: not readable as an array ({error}); prepare the dataset again"
            ) from error
        return mapped

    def _names(self, file: str, known: NDArray[np.uint64]) -> NameTable:
        try:
            return NameTable.open(self.path / file, known)
        except (InputError, OSError, ValueError) as error:
            raise DatasetError(
                f"{self.path / file}: not readable ({error}); prepare the dataset again"
            ) from error


def split_codes(timestamps: NDArray[np.int64], split: Split) -> NDArray[np.uint8]:
    """Return the index into `SPLITS` of each time."""
    codes = (timestamps >= split.validation_from).astype(np.uint8)
    return codes + (timestamps >= split.test_from).astype(np.uint8)


def fingerprint_of(folder: Path) -> str:
    """Return a hex digest over the names and bytes of a folder's arrays."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.npy")):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
