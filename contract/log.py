"""Reads a log folder: checks every table against the schema and packs it into keys and records.

The only module of `contract` that imports polars; imported where a log is read (`prepare`, `load`, `replay`).
"""

import reprlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contract import keys
from contract.encoder import Array
from contract.errors import InputError, LogError
from contract.records import MAX_TIMESTAMP, Records, empty_records, time_order
from contract.schema import LARGEST_NUMBER, Schema, SchemaField

SECONDS_LIMIT: Final = 100_000_000_000  # later than the year 5100: milliseconds, surely
_ID_TYPES: Final = (pl.String, pl.Categorical, pl.Enum)


@dataclass(frozen=True)
class Histories:
    """Everyone's packed events, user after user, each run sorted by time and free of identical records.

    Attributes:
        user_keys: `[users]` uint64, ascending.
        offsets: `[users + 1]` int64; user i owns `records[offsets[i]:offsets[i + 1]]`.
        records: `[events]` of `record_dtype(schema)`.
        user_texts: raw id of each user.

    """

    user_keys: NDArray[np.uint64]
    offsets: NDArray[np.int64]
    records: Records
    user_texts: list[str]


class Log:
    """A log folder; each table is read and checked on first use.

    Raises:
        LogError: from each property: a file, column or value that the design of a log does not allow.
        SchemaError: `schema.toml` is missing or contradicts itself.

    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise LogError(f"{path}: no such folder; a log is a folder of Parquet files and a schema.toml")
        self.path = path
        self.schema = Schema.load(path / "schema.toml")

    @cached_property
    def behaviors(self) -> pl.DataFrame:
        """`behaviors.parquet`: user_id, timestamp, the schema's behaviour fields, action (added if absent)."""
        table = _Table(self.path / "behaviors.parquet")
        table.require_id("user_id")
        table.require_timestamp()
        for field in self.schema.behavior:
            table.require_field(field, nulls=field.optional)
        if "action" not in table.frame.columns:
            table.frame = table.frame.with_columns(pl.lit(self.schema.actions[0]).alias("action"))
        table.require_values("action", list(self.schema.actions), "an action that the schema does not list")
        return table.select(
            ["user_id", "timestamp", "action", *(field.name for field in self.schema.behavior)]
        )

    @cached_property
    def impressions(self) -> pl.DataFrame:
        """`impressions.parquet` in the log's own order and types, with absent optional columns as nulls."""
        table = _Table(self.path / "impressions.parquet")
        table.require_id("user_id")
        table.require_id("ad_id")
        table.require_timestamp()
        table.require_clicked()
        table.optional_id("request_id")
        table.optional_rate()
        for field in self.schema.context:
            table.require_field(field, nulls=True, absent=True)
        context = [field.name for field in self.schema.context]
        columns = ["user_id", "ad_id", "timestamp", "clicked", "request_id", "sampling_rate"]
        _check_requests(table)
        return table.select([*columns, *context])

    @cached_property
    def ads(self) -> pl.DataFrame:
        """`ads.parquet`: ad_id, the schema's ad fields, and display columns the schema does not name."""
        table = _Table(self.path / "ads.parquet")
        table.require_id("ad_id")
        table.require_unique("ad_id")
        for field in self.schema.ad:
            if field.name != "ad_id":
                table.require_field(field, nulls=field.optional)
        return table.frame

    @cached_property
    def users(self) -> pl.DataFrame | None:
        """`users.parquet`: user_id and the schema's user fields, or None where there is no such file."""
        path = self.path / "users.parquet"
        if not path.exists():
            return None
        table = _Table(path)
        table.require_id("user_id")
        table.require_unique("user_id")
        names = [field.name for field in self.schema.user if field.name != "user_id"]
        for name in names:
            table.require_field(self.schema.field("user", name), nulls=True)
        return table.select(["user_id", *names])

    def histories(self, *, until: int | None = None) -> Histories:
        """Pack the behaviours; with `until`, only events strictly before that second."""
        frame = self.behaviors
        if until is not None:
            frame = frame.filter(pl.col("timestamp") < until)
        texts, index = unique_ids(frame["user_id"])
        user_keys = keys.keys(texts)
        _check_collisions(self.path / "behaviors.parquet", user_keys, texts)
        rank = np.empty(len(texts), dtype=np.int64)
        by_key = np.argsort(user_keys)
        rank[by_key] = np.arange(len(texts))
        users = rank[index]
        records = self._records(frame)
        order = time_order(users, records)
        counts = np.bincount(users[order], minlength=len(texts))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Histories(user_keys[by_key], offsets, records[order], [texts[i] for i in by_key])

    def _records(self, frame: pl.DataFrame) -> Records:
        records = empty_records(self.schema, frame.height)
        for field in self.schema.behavior:
            records[field.name] = pack_series(frame[field.name], field)
        records["timestamp"] = frame["timestamp"].to_numpy()
        codes = {action: code for code, action in enumerate(self.schema.actions, start=1)}
        records["action"] = frame["action"].replace_strict(codes, return_dtype=pl.UInt8).to_numpy()
        return records


def read_log(path: Path) -> Log:
    """Open a log folder (see `Log`)."""
    return Log(path)


def unique_ids(series: pl.Series) -> tuple[list[str], NDArray[np.int64]]:
    """Return the distinct ids of a column as texts, and for each row `[n]` the index of its text (-1: null)."""
    texts = series.cast(pl.String)
    distinct = texts.drop_nulls().unique().sort()
    index = texts.cast(pl.Enum(distinct)).to_physical().cast(pl.Int64).fill_null(-1)
    return distinct.to_list(), index.to_numpy()


def pack_series(series: pl.Series, field: SchemaField) -> Array:
    """Return a column as uint64 keys (0 = missing) or float64 (NaN = missing), each distinct id hashed once."""
    if field.type == "numeric":
        return series.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    texts, index = unique_ids(series)
    try:
        packed = np.append(keys.keys(texts), np.uint64(keys.MISSING))
    except InputError as error:
        raise LogError(f"column {series.name!r}: {error}") from error
    return packed[index]  # index -1 (null) reads the appended 0


class _Table:
    """One Parquet file under inspection; every refusal names file, column and first bad row (from 0)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.frame = pl.read_parquet(path)
        except FileNotFoundError as error:
            raise LogError(f"{path}: no such file; the log is incomplete") from error
        except (pl.exceptions.PolarsError, OSError) as error:
            raise LogError(f"{path}: not readable as Parquet: {str(error).splitlines()[0]}") from error

    def select(self, names: list[str]) -> pl.DataFrame:
        return self.frame.select(names)

    def refuse(self, column: str, bad: pl.Series, what: str) -> None:
        """Refuse the table if any row is bad."""
        rows = bad.fill_null(value=False).arg_true()
        if len(rows):
            row = int(rows[0])
            value = reprlib.repr(self.frame[column][row])
            raise LogError(f"{self.path}: column {column!r}, row {row}: {value} {what}")

    def column(self, name: str) -> pl.Series:
        if name not in self.frame.columns:
            raise LogError(f"{self.path}: column {name!r} is missing; it has {', '.join(self.frame.columns)}")
        return self.frame[name]

    def no_nulls(self, name: str) -> None:
        self.refuse(name, self.column(name).is_null(), "is null; this column is required in every row")

    def mistyped(self, name: str, wanted: str) -> LogError:
        return LogError(f"{self.path}: column {name!r} is {self.frame[name].dtype}; it must be {wanted}")

    def require_id(self, name: str, *, nulls: bool = False) -> None:
        column = self.column(name)
        if not (column.dtype in _ID_TYPES or column.dtype.is_integer()):
            raise self.mistyped(name, "a string or an integer")
        if not nulls:
            self.no_nulls(name)
        size = column.cast(pl.String).str.len_bytes()
        self.refuse(name, size == 0, "is empty; ids are non-empty strings or integers")
        self.refuse(name, size > keys.MAX_ID_BYTES, f"is longer than {keys.MAX_ID_BYTES} bytes")

    def optional_id(self, name: str) -> None:
        if name in self.frame.columns and self.frame[name].dtype != pl.Null:
            self.require_id(name, nulls=True)
        else:
            self.frame = self.frame.with_columns(pl.lit(None, dtype=pl.String).alias(name))

    def require_timestamp(self) -> None:
        column = self.column("timestamp")
        if not column.dtype.is_integer():
            raise self.mistyped("timestamp", "int64 seconds UTC")
        self.no_nulls("timestamp")
        column = column.cast(pl.Float64)  # a narrow integer can't be compared with the limits
        self.refuse("timestamp", column >= SECONDS_LIMIT, "looks like milliseconds; give seconds UTC")
        self.refuse("timestamp", column < 0, "is negative; timestamps are seconds since 1970 UTC")
        self.refuse("timestamp", column > MAX_TIMESTAMP, f"is later than {MAX_TIMESTAMP}, the last one kept")
        self.frame = self.frame.with_columns(pl.col("timestamp").cast(pl.Int64))

    def require_clicked(self) -> None:
        column = self.column("clicked")
        if not (column.dtype.is_integer() or column.dtype == pl.Boolean):
            raise self.mistyped("clicked", "0 or 1")
        self.no_nulls("clicked")
        self.refuse("clicked", ~column.cast(pl.Float64).is_in([0.0, 1.0]), "is neither 0 nor 1")

    def optional_rate(self) -> None:
        name = "sampling_rate"
        if name not in self.frame.columns or self.frame[name].dtype == pl.Null:
            self.frame = self.frame.with_columns(pl.lit(None, dtype=pl.Float64).alias(name))
            return
        column = self.frame[name]
        if not column.dtype.is_numeric():
            raise self.mistyped(name, "a number in (0, 1] or null")
        self.refuse(name, ~((column > 0) & (column <= 1)), "is outside (0, 1]; null = unknown")
        if 0 < column.null_count() < len(column):
            row = int(column.is_null().arg_true()[0])
            raise LogError(f"{self.path}: column {name!r}, row {row}: null among known rates; all or none")

    def require_field(self, field: SchemaField, *, nulls: bool, absent: bool = False) -> None:
        """Check a schema field's column; `absent`: a table without it has nulls there instead."""
        name = field.name
        numeric = field.type == "numeric"
        if absent and name not in self.frame.columns:
            dtype = pl.Float64 if numeric else pl.String
            self.frame = self.frame.with_columns(pl.lit(None, dtype=dtype).alias(name))
            return
        column = self.column(name)
        if column.dtype == pl.Null and nulls:
            self.frame = self.frame.with_columns(column.cast(pl.Float64 if numeric else pl.String))
        elif not numeric:
            self.require_id(name, nulls=nulls)
        elif not column.dtype.is_numeric():
            raise self.mistyped(name, "a number, as the schema says")
        else:
            if not nulls:
                self.no_nulls(name)
            wide = column.cast(pl.Float64)
            self.refuse(name, ~wide.is_finite(), "is not finite; null = missing")
            self.refuse(name, wide.abs() > LARGEST_NUMBER, "is too large a number")

    def require_values(self, name: str, allowed: list[str], what: str) -> None:
        if self.column(name).dtype not in _ID_TYPES:
            raise self.mistyped(name, "a string")
        self.no_nulls(name)
        self.refuse(
            name, ~self.frame[name].cast(pl.String).is_in(allowed), f"is {what} ({', '.join(allowed)})"
        )

    def require_unique(self, name: str) -> None:
        self.refuse(name, ~self.frame[name].is_first_distinct(), "appears twice")


def _check_requests(table: _Table) -> None:
    """Refuse a request_id with two users or timestamps."""
    frame = table.frame.select("request_id", "user_id", "timestamp").drop_nulls("request_id").unique()
    twice = frame.filter(frame["request_id"].is_duplicated())
    if twice.height:
        value = twice["request_id"][0]
        bad = table.frame["request_id"] == value
        table.refuse("request_id", bad, "has two users or timestamps; a request is one user at one time")


def _check_collisions(path: Path, hashed: NDArray[np.uint64], texts: list[str]) -> None:
    """Refuse two texts of one key: astronomically rare, yet it would merge two people."""
    order = np.argsort(hashed)
    same = np.flatnonzero(hashed[order][1:] == hashed[order][:-1])
    if same.size:
        first, second = texts[order[same[0]]], texts[order[same[0] + 1]]
        raise LogError(f"{path}: column 'user_id': {first!r} and {second!r} have the same key; rename one")
