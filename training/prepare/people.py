"""Second pass over one range of keys: its users with their histories, their requests, and the ids it holds.

Writes the arrays of the dataset for its range; positions of users, events and rows count from 0 in each part.
"""

from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contract.log import TWICE, Log, encoded_texts, pack_series, refusal, refuse_collisions
from contract.records import Records, empty_records, time_order
from training.prepare.catalogue import spread
from training.prepare.chunks import FIELD
from training.prepare.keyed import merged_texts, read_part
from training.prepare.shown import KIND as SHOWN
from training.prepare.work import Work, write_array

KIND: Final = "people"
_TEXTS: Final = {"key": pl.UInt64(), "text": pl.String()}


class PeopleParts:
    """Makes the parts of users, histories and vocabularies; needs all chunks and the parts of the impressions."""

    def __init__(self, source: Log, work: Work, *, history_lag_s: int) -> None:
        self._source = source
        self._work = work
        self._lag_s = history_lag_s

    def make(self) -> None:
        """Make all parts."""
        self._work.make(KIND, self._work.parts, self._build, label="sorting histories")

    def _build(self, part: int) -> None:
        profiles = read_part(self._tables("people", "users"), part)
        texts, people = self._users(profiles, part)
        records, counts = self._histories(part, people)
        shown = self._work.place(SHOWN, part)
        requests = np.load(shown / "requests.npy")
        user = np.searchsorted(people, np.load(shown / "request_user.npy"))
        _place_requests(requests, user, counts, records["timestamp"], self._lag_s)
        with self._work.piece(KIND, part) as folder:
            write_array(folder / "requests.npy", requests)
            write_array(folder / "records.npy", records)
            write_array(folder / "user_keys.npy", people)
            write_array(folder / "user_counts.npy", counts)
            write_texts(folder, "user", texts)
            self._save_fields(folder, profiles, people, texts)
            self._save_vocabularies(folder, part)

    def _tables(self, name: str, *kinds: str) -> list[Path]:
        """Return the keyed tables of a name in the chunks of some kinds, those that have one."""
        found = [folder / f"{name}.parquet" for kind in kinds for folder in self._work.pieces(kind)]
        return [path for path in found if path.exists()]

    def _users(self, profiles: pl.DataFrame, part: int) -> tuple[pl.Series, NDArray[np.uint64]]:
        """Return text and key of everyone in the range, by key."""
        acting = read_part(self._tables("people", "behaviors", "impressions"), part)
        everyone = pl.concat([acting, profiles.select("key", "text")]).unique(["key", "text"]).sort("key")
        people = everyone["key"].to_numpy()
        refuse_collisions(self._source.place("behaviors"), people, everyone["text"].to_list())
        return everyone["text"], people

    def _histories(self, part: int, people: NDArray[np.uint64]) -> tuple[Records, NDArray[np.int64]]:
        """Return the packed events, user after user, each run in time, and how many each user has."""
        events = read_part(self._tables("events", "behaviors"), part)
        records = empty_records(self._source.schema, events.height)
        for field in self._source.schema.behavior:
            records[field.name] = events[FIELD + field.name].to_numpy()
        records["timestamp"] = events["timestamp"].to_numpy()
        records["action"] = events["action"].to_numpy()
        users = np.searchsorted(people, events["key"].to_numpy())
        order = time_order(users, records)
        return records[order], np.bincount(users[order], minlength=len(people)).astype(np.int64)

    def _save_fields(
        self, folder: Path, profiles: pl.DataFrame, people: NDArray[np.uint64], texts: pl.Series
    ) -> None:
        known = profiles["key"].to_numpy()
        for field in self._source.schema.user:
            name = FIELD + field.name
            if field.name == "user_id":  # everyone has an id, with a profile or without
                packed = pack_series(texts, field)
            else:
                given = profiles[name].to_numpy() if name in profiles.columns else None
                packed = spread(given, field, known, people)
            write_array(folder / f"user_{field.name}.npy", packed)

    def _save_vocabularies(self, folder: Path, part: int) -> None:
        """Write every id of every vocabulary whose key is in the range, with its text."""
        for vocabulary in self._source.schema.vocabularies:
            name = f"vocabulary_{vocabulary}"
            tables = self._tables(name, "behaviors", "ads", "users", "impressions")
            found = merged_texts([read_part(tables, part)]) if tables else pl.DataFrame(schema=_TEXTS)
            write_array(folder / f"{name}_keys.npy", found["key"].to_numpy())
            write_texts(folder, name, found["text"])


def write_texts(folder: Path, name: str, texts: pl.Series) -> None:
    """Write texts as `<name>.blob`, their bytes, and `<name>_lengths.npy`, how many each has."""
    blob, lengths = encoded_texts(texts)
    (folder / f"{name}.blob").write_bytes(blob)
    write_array(folder / f"{name}_lengths.npy", lengths)


def refuse_double_users(source: Log, work: Work) -> None:
    """Refuse a user with two profiles; the first row that holds one again is named.

    Raises:
        LogError: `users.parquet` holds a user twice.

    """
    tables = [folder / "people.parquet" for folder in work.pieces("users")]
    rows = []
    for part in range(work.parts):
        profiles = read_part(tables, part).sort("key", "row")
        rows += profiles.filter(profiles["key"] == profiles["key"].shift())["row"].to_list()
    if rows:
        row = min(rows)
        raise refusal(source.place("users"), "user_id", row, source.value("users", "user_id", row), TWICE)


def _place_requests(
    requests: NDArray[np.void],
    user: NDArray[np.int64],
    counts: NDArray[np.int64],
    times: NDArray[np.uint32],
    lag_s: int,
) -> None:
    """Fill in whose each request is and which slice of the records is its history."""
    offsets = np.cumsum(counts) - counts
    requests["user"] = user
    requests["start"] = offsets[user]
    # (user, second) as one ascending number: all requests find their place in one search
    owner = np.repeat(np.arange(len(counts)), counts)
    place = (owner << 32) | times.astype(np.int64)
    cut = np.clip(requests["timestamp"] - lag_s, 0, None)
    requests["end"] = np.searchsorted(place, (user << 32) | cut, side="left")
