"""Reads a log folder: checks every table against the schema, whole or in pieces, and packs it into keys and records.

The only package of `contract` that imports polars; imported where a log is read (`prepare`, `load`, `replay`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contract import keys
from contract.errors import LogError
from contract.log.packing import (
    encoded_texts,
    key_series,
    pack_actions,
    pack_records,
    pack_series,
    unique_ids,
)
from contract.log.table import TWICE, TWO_REQUESTS, Table, TableFile, refusal, refuse_mixed_rates
from contract.records import Records, time_order
from contract.schema import Schema

__all__ = [
    "TABLES",
    "TWICE",
    "TWO_REQUESTS",
    "Histories",
    "Log",
    "TableName",
    "encoded_texts",
    "key_series",
    "pack_actions",
    "pack_records",
    "pack_series",
    "read_log",
    "refusal",
    "refuse_collisions",
    "refuse_mixed_rates",
    "unique_ids",
]

TableName: TypeAlias = Literal["behaviors", "impressions", "ads", "users"]
TABLES: Final[tuple[TableName, ...]] = ("behaviors", "impressions", "ads", "users")
_IMPRESSION: Final = ("user_id", "ad_id", "timestamp", "clicked", "request_id", "sampling_rate")


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
    """A log folder; each table is read and checked on first use: whole by its property, or chunk by chunk.

    Raises:
        LogError: from each property and method: a file, column or value that the design of a log does not allow.
        SchemaError: `schema.toml` is missing or contradicts itself.

    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise LogError(f"{path}: no such folder; a log is a folder of Parquet files and a schema.toml")
        self.path = path
        self.schema = Schema.load(path / "schema.toml")
        self._files: dict[TableName, TableFile] = {}

    def place(self, table: TableName) -> Path:
        """Return the path of a table."""
        return self.path / f"{table}.parquet"

    def rows(self, table: TableName) -> int:
        """Return the number of rows of a table; of users that are not there 0."""
        return 0 if table == "users" and not self.place(table).exists() else self._file(table).rows

    def scan(self, table: TableName) -> pl.LazyFrame:
        """Return a table as it stands, unread and unchecked."""
        return self._file(table).scan

    def chunk(self, table: TableName, *, first: int, count: int) -> pl.DataFrame:
        """Return rows `first` .. `first + count` of a table, checked and with the columns of its property.

        What no single row shows is not checked: a request or id that appears again elsewhere, sampling rates of
        which only some are known.
        """
        return self._checked(table, self._file(table).read(self._columns(table), first=first, count=count))

    def value(self, table: TableName, column: str, row: int) -> object:
        """Return one raw value, for a message."""
        value: object = self._file(table).read([column], first=row, count=1).frame[column][0]
        return value

    @cached_property
    def behaviors(self) -> pl.DataFrame:
        """`behaviors.parquet`: user_id, timestamp, the schema's behaviour fields, action (added if absent)."""
        return self._whole("behaviors")

    @cached_property
    def impressions(self) -> pl.DataFrame:
        """`impressions.parquet` in the log's own order and types, with absent optional columns as nulls."""
        frame = self._whole("impressions")
        rate = frame["sampling_rate"]
        nulls = rate.is_null().arg_true()
        first_null = int(nulls[0]) if len(nulls) else None
        refuse_mixed_rates(
            self.place("impressions"), known=rate.null_count() < len(rate), first_null=first_null
        )
        self._refuse_double_requests(frame)
        return frame

    @cached_property
    def ads(self) -> pl.DataFrame:
        """`ads.parquet`: ad_id, the schema's ad fields, and display columns the schema does not name."""
        return self._whole("ads")

    @cached_property
    def users(self) -> pl.DataFrame | None:
        """`users.parquet`: user_id and the schema's user fields, or None where there is no such file."""
        return self._whole("users") if self.place("users").exists() else None

    def histories(self, *, until: int | None = None) -> Histories:
        """Pack the behaviours; with `until`, only events strictly before that second."""
        frame = self.behaviors
        if until is not None:
            frame = frame.filter(pl.col("timestamp") < until)
        texts, index = unique_ids(frame["user_id"])
        user_keys = keys.keys(texts)
        by_key = np.argsort(user_keys)
        sorted_texts = [texts[i] for i in by_key]
        refuse_collisions(self.place("behaviors"), user_keys[by_key], sorted_texts)
        rank = np.empty(len(texts), dtype=np.int64)
        rank[by_key] = np.arange(len(texts))
        users = rank[index]
        records = pack_records(frame, self.schema)
        order = time_order(users, records)
        counts = np.bincount(users[order], minlength=len(texts))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Histories(user_keys[by_key], offsets, records[order], sorted_texts)

    def _file(self, table: TableName) -> TableFile:
        if table not in self._files:
            self._files[table] = TableFile(self.place(table))
        return self._files[table]

    def _whole(self, table: TableName) -> pl.DataFrame:
        read = self._file(table).read(self._columns(table))
        frame = self._checked(table, read)
        if table in {"ads", "users"}:
            read.require_unique("ad_id" if table == "ads" else "user_id")
        return frame

    def _columns(self, table: TableName) -> list[str] | None:
        """Return the columns that a table may have, None for all that there are."""
        schema = self.schema
        if table == "behaviors":
            return ["user_id", "timestamp", "action", *(field.name for field in schema.behavior)]
        if table == "impressions":
            return [*_IMPRESSION, *(field.name for field in schema.context)]
        if table == "users":
            return list(dict.fromkeys(["user_id", *(field.name for field in schema.user)]))
        return None

    def _checked(self, table: TableName, read: Table) -> pl.DataFrame:
        check = {
            "behaviors": self._check_behaviors,
            "impressions": self._check_impressions,
            "ads": self._check_ads,
            "users": self._check_users,
        }[table]
        check(read)
        columns = self._columns(table)
        return read.frame if columns is None else read.frame.select(columns)

    def _check_behaviors(self, table: Table) -> None:
        table.require_id("user_id")
        table.require_timestamp()
        for field in self.schema.behavior:
            table.require_field(field, nulls=field.optional)
        if "action" not in table.frame.columns:
            table.frame = table.frame.with_columns(pl.lit(self.schema.actions[0]).alias("action"))
        table.require_values("action", list(self.schema.actions), "an action that the schema does not list")

    def _check_impressions(self, table: Table) -> None:
        table.require_id("user_id")
        table.require_id("ad_id")
        table.require_timestamp()
        table.require_clicked()
        table.optional_id("request_id")
        table.optional_rate()
        for field in self.schema.context:
            table.require_field(field, nulls=True, absent=True)

    def _check_ads(self, table: Table) -> None:
        table.require_id("ad_id")
        for field in self.schema.ad:
            if field.name != "ad_id":
                table.require_field(field, nulls=field.optional)

    def _check_users(self, table: Table) -> None:
        table.require_id("user_id")
        for field in self.schema.user:
            if field.name != "user_id":
                table.require_field(field, nulls=True)

    def _refuse_double_requests(self, frame: pl.DataFrame) -> None:
        """Refuse a request_id with two users or timestamps."""
        distinct = frame.select("request_id", "user_id", "timestamp").drop_nulls("request_id").unique()
        twice = distinct.filter(distinct["request_id"].is_duplicated())["request_id"].unique()
        if len(twice):
            row = int(frame["request_id"].is_in(twice.implode()).arg_true()[0])
            raise refusal(
                self.place("impressions"), "request_id", row, frame["request_id"][row], TWO_REQUESTS
            )


def read_log(path: Path) -> Log:
    """Open a log folder (see `Log`)."""
    return Log(path)


def refuse_collisions(place: Path, user_keys: NDArray[np.uint64], texts: Sequence[str]) -> None:
    """Refuse two users of one key, given ascending: astronomically rare, yet it would merge two people."""
    same = np.flatnonzero(user_keys[1:] == user_keys[:-1])
    if same.size:
        first, second = texts[int(same[0])], texts[int(same[0]) + 1]
        raise LogError(f"{place}: column 'user_id': {first!r} and {second!r} have the same key; rename one")
