"""First pass: a log's tables, chunk by chunk, checked, turned into keys and sorted by the user's key.

A chunk is a piece of the work folder with these keyed tables (`training.prepare.keyed`):

| of | table | rows |
|---|---|---|
| all | `people` | its users: key, text (of `users.parquet` also the row and the packed fields) |
| behaviors | `events` | packed behaviour fields, timestamp, action |
| impressions | `shown` | ad, timestamp, request, clicked, rate, row of the log, packed context |
| impressions | `ads`, `requests` | its ads: key, text; its request ids: key, user, timestamp, row |
| all | `vocabulary_<name>` | its ids: key, text |
"""

from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contract.encoder import Array
from contract.log import Log, TableName, key_series, pack_actions, pack_series, refuse_collisions
from contract.schema import Group, SchemaField
from training.prepare.keyed import distinct_texts, keyed_frame, merged_texts, text_table, write_keyed
from training.prepare.work import Work

FIELD: Final = "field_"  # leads the column of a schema field, which may bear any name

Columns = dict[str, Array]


class Chunks:
    """Cuts the tables of a log into pieces of `rows` rows."""

    def __init__(self, source: Log, work: Work, *, rows: int) -> None:
        self._source = source
        self._work = work
        self._rows = rows

    def make(self, table: TableName, *, label: str) -> None:
        """Make all chunks of a table; a table without rows has one."""
        build = {"behaviors": self._behaviors, "impressions": self._impressions, "users": self._users}[table]
        count = max(1, -(-self._source.rows(table) // self._rows))
        self._work.make(table, count, build, label=label)

    def _behaviors(self, index: int) -> None:
        schema = self._source.schema
        frame = self._read("behaviors", index)
        user, order = self._users_of(frame, "behaviors")
        columns: Columns = {"key": user, "timestamp": frame["timestamp"].to_numpy().astype(np.uint32)}
        columns["action"] = pack_actions(frame["action"], schema)
        columns |= packed_fields(frame, schema.behavior, number=np.float32)
        with self._work.piece("behaviors", index) as folder:
            self._write(folder, "people", _people(frame, user, order))
            self._write(folder, "events", keyed_frame(columns, order))
            self.write_vocabularies(folder, frame, "behavior", columns)

    def _impressions(self, index: int) -> None:
        frame = self._read("impressions", index)
        user, order = self._users_of(frame, "impressions")
        ad = key_series(frame["ad_id"])
        first = index * self._rows
        columns: Columns = {
            "key": user,
            "ad": ad,
            "timestamp": frame["timestamp"].to_numpy(),
            "clicked": frame["clicked"].cast(pl.UInt8).to_numpy(),
            "rate": frame["sampling_rate"].cast(pl.Float32).fill_null(float("nan")).to_numpy(),
            "row": np.arange(first, first + frame.height),
        }
        requests = _requests(frame["request_id"], columns)
        columns |= packed_fields(frame, self._source.schema.context)
        shown = keyed_frame(columns, order).with_columns(frame["request_id"].gather(order).alias("request"))
        with self._work.piece("impressions", index) as folder:
            self._write(folder, "people", _people(frame, user, order))
            self._write(folder, "shown", shown)
            self._write(folder, "ads", distinct_texts(frame["ad_id"], ad))
            self._write(folder, "requests", requests)
            self.write_vocabularies(folder, frame, "context", columns)

    def _users(self, index: int) -> None:
        if not self._source.place("users").exists():
            frame = pl.DataFrame(schema={"user_id": pl.String})
        else:
            frame = self._read("users", index)
        user, order = self._users_of(frame, "users")
        first = index * self._rows
        columns: Columns = {"key": user, "row": np.arange(first, first + frame.height)}
        columns |= packed_fields(frame, self._source.schema.user)
        people = keyed_frame(columns, order).with_columns(frame["user_id"].gather(order).alias("text"))
        with self._work.piece("users", index) as folder:
            self._write(folder, "people", people)
            self.write_vocabularies(folder, frame, "user", columns)

    def _read(self, table: TableName, index: int) -> pl.DataFrame:
        """Return one chunk, checked; ids are texts."""
        frame = self._source.chunk(table, first=index * self._rows, count=self._rows)
        groups: dict[TableName, Group] = {"behaviors": "behavior", "impressions": "context", "users": "user"}
        fields = self._source.schema.group(groups[table])
        ids = {"user_id", "ad_id", "request_id", *(field.name for field in fields if field.vocabulary)}
        return frame.with_columns(pl.col(name).cast(pl.String) for name in frame.columns if name in ids)

    def _users_of(
        self, frame: pl.DataFrame, table: TableName
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Return the key `[n]` of each row's user, and the rows by key, those of one user in the log's order."""
        user = key_series(frame["user_id"])
        order = np.argsort(user, kind="stable")
        # a second hash tells two texts of one key apart without comparing texts
        other = frame["user_id"].hash().to_numpy()[order]
        same = user[order][1:] == user[order][:-1]
        clash = np.flatnonzero(same & (other[1:] != other[:-1]))
        if clash.size:
            pair = order[[int(clash[0]), int(clash[0]) + 1]]
            refuse_collisions(self._source.place(table), user[pair], frame["user_id"].gather(pair).to_list())
        return user, order

    def write_vocabularies(self, folder: Path, frame: pl.DataFrame, group: Group, columns: Columns) -> None:
        """Write the ids of each vocabulary that `frame`, packed into `columns`, has fields of."""
        for vocabulary in self._source.schema.vocabularies:
            fields = [f for f in self._source.schema.group(group) if f.vocabulary == vocabulary]
            found = [
                distinct_texts(frame[field.name], columns[FIELD + field.name])
                for field in fields
                if field.name in frame.columns
            ]
            if found:
                texts = found[0] if len(found) == 1 else merged_texts(found)
                self._write(folder, f"vocabulary_{vocabulary}", texts)

    def _write(self, folder: Path, name: str, frame: pl.DataFrame) -> None:
        write_keyed(folder / f"{name}.parquet", frame, self._work.edges)


def packed_fields(
    frame: pl.DataFrame, fields: tuple[SchemaField, ...], *, number: type[np.floating] = np.float64
) -> Columns:
    """Return the packed columns of those fields that a table has."""
    packed = {}
    for field in fields:
        if field.name in frame.columns:
            column = pack_series(frame[field.name], field)
            packed[FIELD + field.name] = column.astype(number) if field.type == "numeric" else column
    return packed


def _people(frame: pl.DataFrame, user: NDArray[np.uint64], order: NDArray[np.int64]) -> pl.DataFrame:
    """Return key and text of each user of a chunk, by key."""
    sorted_keys = user[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = sorted_keys[1:] != sorted_keys[:-1]
    return text_table(sorted_keys[new], frame["user_id"].gather(order[new]))


def _requests(ids: pl.Series, columns: Columns) -> pl.DataFrame:
    """Return where request ids stand, by their key: one row for each run of rows that agree in everything."""
    hashed = key_series(ids)
    parts = {"key": hashed, "user": columns["key"], "timestamp": columns["timestamp"], "row": columns["row"]}
    new = np.ones(len(hashed), dtype=bool)
    new[1:] = False
    for name in ("key", "user", "timestamp"):
        new[1:] |= parts[name][1:] != parts[name][:-1]
    starts = np.flatnonzero(new & (hashed != 0))
    return keyed_frame(parts, starts[np.argsort(hashed[starts], kind="stable")])
