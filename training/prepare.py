"""`longsight prepare`: a log folder becomes a dataset folder (layout: `training.dataset`)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contract import keys
from contract.encoder import Array
from contract.errors import DatasetError
from contract.files import atomic_folder, write_json_atomic
from contract.log import Histories, Log, pack_series, read_log, unique_ids
from contract.schema import Split
from contract.vocabulary import NameTable
from training.dataset import FORMAT, MARKER, REQUEST, fingerprint_of, split_codes

Progress = Callable[[int, int | None, str], None]

LOGGED: Final = ("user_id", "ad_id", "timestamp", "request_id", "clicked")
_STEPS: Final = 5


def prepare(
    log: Path,
    dataset: Path,
    *,
    validation_from: int | None = None,
    test_from: int | None = None,
    history_lag_s: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the dataset of a log; returns its counts.

    Args:
        log: a log folder.
        dataset: the folder to write; an older dataset there is replaced once the new one is whole.
        validation_from: first second of validation; by default the schema's.
        test_from: first second of test; by default the schema's.
        history_lag_s: a request sees events older than its time by more than this many seconds.
        progress: called with (done, total, label).

    Raises:
        LogError, SchemaError: the log is not as the design says.
        DatasetError: no split is known, or the lag is negative.

    """
    report = progress or (lambda _done, _total, _label: None)
    source = read_log(log)
    split = _split(source, validation_from, test_from)
    if history_lag_s < 0:
        raise DatasetError(f"history lag {history_lag_s} s is negative; give 0 or more seconds")
    report(0, _STEPS, "packing behaviours")
    histories = source.histories()
    report(1, _STEPS, "reading impressions")
    people = _people(source, histories)
    catalogue = _catalogue(source)
    report(2, _STEPS, "grouping requests")
    rows = _Rows.build(source, people, catalogue)
    requests = rows.requests(people, histories, split, history_lag_s)
    with atomic_folder(dataset, marker=MARKER) as folder:
        report(3, _STEPS, "writing arrays")
        np.save(folder / "records.npy", histories.records)
        people.save(folder)
        catalogue.save(folder, "ad")
        rows.save(folder, source, requests)
        _save_texts(folder, source)
        report(4, _STEPS, "fingerprint")
        counts = _counts(histories, people, catalogue, requests, rows)
        manifest = {
            "format": FORMAT,
            "schema": source.schema.model_copy(update={"split": split}).to_json(),
            "history_lag_s": history_lag_s,
            "sampling": rows.sampling(),
            "counts": counts,
            "fingerprint": fingerprint_of(folder),
        }
        write_json_atomic(folder / MARKER, manifest)
    report(_STEPS, _STEPS, "done")
    return {**counts, "dataset": str(dataset), "fingerprint": manifest["fingerprint"]}


@dataclass(frozen=True)
class _Table:
    """Ids with their packed features: one row each, ascending by key."""

    keys: NDArray[np.uint64]
    texts: list[str]
    columns: dict[str, Array]

    @classmethod
    def build(cls, texts: list[str], hashed: NDArray[np.uint64], columns: dict[str, Array]) -> "_Table":
        order = np.argsort(hashed)
        sorted_columns = {name: column[order] for name, column in columns.items()}
        return cls(hashed[order], [texts[i] for i in order], sorted_columns)

    def index_of(self, texts: list[str]) -> NDArray[np.int64]:
        """Return the row of each text."""
        return np.searchsorted(self.keys, keys.keys(texts))

    def save(self, folder: Path, kind: str) -> None:
        np.save(folder / f"{kind}_keys.npy", self.keys)
        NameTable.write(folder / f"{kind}.names", self.texts)
        for name, column in self.columns.items():
            np.save(folder / f"{kind}_{name}.npy", column)


@dataclass(frozen=True)
class _People:
    """Everybody who acted, was shown an ad, or has a profile; `offsets` `[users + 1]` into the records."""

    table: _Table
    offsets: NDArray[np.int64]

    def save(self, folder: Path) -> None:
        self.table.save(folder, "user")
        np.save(folder / "user_offsets.npy", self.offsets)


def _split(source: Log, validation_from: int | None, test_from: int | None) -> Split:
    known = source.schema.split
    first, second = (known.validation_from, known.test_from) if known else (None, None)
    first = first if validation_from is None else validation_from
    second = second if test_from is None else test_from
    if first is None or second is None:
        raise DatasetError(
            f"{source.path / 'schema.toml'}: no [split]; add one or give --validation-from and --test-from"
        )
    if not 0 <= first < second:
        raise DatasetError(f"validation from {first} must be before test from {second} (epoch seconds)")
    return Split(validation_from=first, test_from=second)


def _outer_table(source: Log, frame: pl.DataFrame | None, kind: str, seen: list[str]) -> _Table:
    """Return the table of all ids `seen`, with the features that `frame` has for them."""
    id_name = f"{kind}_id"
    everyone = pl.DataFrame({id_name: seen}, schema={id_name: pl.String})
    if frame is not None:
        known = frame.with_columns(pl.col(id_name).cast(pl.String))
        everyone = known.join(everyone, on=id_name, how="full", coalesce=True)
    everyone = everyone.unique(id_name, maintain_order=True)
    columns = {}
    for field in source.schema.group("ad" if kind == "ad" else "user"):
        series = everyone[field.name] if field.name in everyone.columns else None
        if series is None:
            series = pl.Series(field.name, [None] * everyone.height, dtype=pl.String)
        columns[field.name] = pack_series(series, field)
    texts = everyone[id_name].to_list()
    return _Table.build(texts, keys.keys(texts), columns)


def _people(source: Log, histories: Histories) -> _People:
    shown = source.impressions["user_id"].cast(pl.String).unique().to_list()
    seen = list(dict.fromkeys([*histories.user_texts, *shown]))
    table = _outer_table(source, source.users, "user", seen)
    counts = np.zeros(len(table.keys), dtype=np.int64)
    # both are ascending by key, so the records of these users already stand in the table's order
    counts[np.searchsorted(table.keys, histories.user_keys)] = np.diff(histories.offsets)
    return _People(table, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def _catalogue(source: Log) -> _Table:
    shown = source.impressions["ad_id"].cast(pl.String).unique().to_list()
    return _outer_table(source, source.ads, "ad", shown)


@dataclass(frozen=True)
class _Rows:
    """Impression rows in request-major order; all arrays `[rows]`."""

    log_row: NDArray[np.int64]  # position in impressions.parquet
    user: NDArray[np.int64]
    ad: NDArray[np.int64]
    timestamp: NDArray[np.int64]
    clicked: NDArray[np.uint8]
    rate: NDArray[np.float32]  # NaN = unknown
    first: NDArray[np.int64]  # [requests + 1] row offsets

    @classmethod
    def build(cls, source: Log, people: _People, catalogue: _Table) -> "_Rows":
        frame = source.impressions
        user_texts, user = unique_ids(frame["user_id"])
        ad_texts, ad = unique_ids(frame["ad_id"])
        _, request = unique_ids(frame["request_id"])
        user = people.table.index_of(user_texts)[user]
        timestamp = frame["timestamp"].to_numpy()
        order = np.lexsort((request, timestamp, user))  # stable: the log's order inside a request
        key = np.stack([user[order], timestamp[order], request[order]])
        new = np.ones(len(order), dtype=bool)
        new[1:] = (key[:, 1:] != key[:, :-1]).any(axis=0)
        first = np.append(np.flatnonzero(new), len(order)).astype(np.int64)
        rate = frame["sampling_rate"].cast(pl.Float32).fill_null(float("nan")).to_numpy()
        return cls(
            log_row=order,
            user=user[order],
            ad=catalogue.index_of(ad_texts)[ad][order],
            timestamp=timestamp[order],
            clicked=frame["clicked"].cast(pl.UInt8).to_numpy()[order],
            rate=rate[order],
            first=first,
        )

    def requests(
        self, people: _People, histories: Histories, split: Split, history_lag_s: int
    ) -> NDArray[np.void]:
        """Return the `[requests]` table: user, start and end of the history, time, first row, split."""
        head = self.first[:-1]
        requests = np.zeros(len(head), dtype=REQUEST)
        user = self.user[head]
        requests["user"] = user
        requests["timestamp"] = self.timestamp[head]
        requests["start"] = people.offsets[user]
        owner = np.repeat(np.arange(len(people.table.keys)), np.diff(people.offsets))
        # (user, second) as one ascending number: all requests find their place in one search
        place = (owner << 32) | histories.records["timestamp"].astype(np.int64)
        cut = np.clip(requests["timestamp"] - history_lag_s, 0, None)
        requests["end"] = np.searchsorted(place, (user << 32) | cut, side="left")
        requests["first_row"] = head
        requests["rows"] = np.diff(self.first)
        requests["split"] = split_codes(requests["timestamp"], split)
        return requests

    def sampling(self) -> dict[str, Any]:
        """Return what is known of the sampling: the rates of clicked and other rows where they are constant."""
        if np.isnan(self.rate).any():
            return {"known": False}
        found: dict[str, Any] = {"known": True}
        for name, value in (("clicked", 1), ("not_clicked", 0)):
            rates = np.unique(self.rate[self.clicked == value])
            found[name] = float(rates[0]) if len(rates) == 1 else None
        return found

    def save(self, folder: Path, source: Log, requests: NDArray[np.void]) -> None:
        np.save(folder / "requests.npy", requests)
        np.save(folder / "row_log_row.npy", self.log_row)
        np.save(folder / "row_ad.npy", self.ad.astype(np.int32))
        np.save(folder / "row_clicked.npy", self.clicked)
        np.save(folder / "row_rate.npy", self.rate)
        for field in source.schema.context:
            packed = pack_series(source.impressions[field.name], field)
            np.save(folder / f"row_context_{field.name}.npy", packed[self.log_row])
        # predictions are written in the log's order with the log's own values and types
        source.impressions.select(LOGGED).write_parquet(folder / "impressions.parquet")


def _save_texts(folder: Path, source: Log) -> None:
    """Write every id of every vocabulary with its raw text, for wherever a person reads."""
    tables = {
        "behavior": source.behaviors,
        "ad": source.ads,
        "user": source.users,
        "context": source.impressions,
    }
    for vocabulary in source.schema.vocabularies:
        texts: set[str] = set()
        for group, frame in tables.items():
            for field in source.schema.group(group):  # type: ignore[arg-type]
                if field.vocabulary == vocabulary and frame is not None and field.name in frame.columns:
                    texts.update(frame[field.name].drop_nulls().cast(pl.String).unique().to_list())
        listed = sorted(texts)
        hashed = keys.keys(listed)
        order = np.argsort(hashed)
        np.save(folder / f"vocabulary_{vocabulary}_keys.npy", hashed[order])
        NameTable.write(folder / f"vocabulary_{vocabulary}.names", [listed[i] for i in order])


def _counts(
    histories: Histories, people: _People, catalogue: _Table, requests: NDArray[np.void], rows: _Rows
) -> dict[str, Any]:
    per_split = np.bincount(requests["split"], minlength=3)
    return {
        "behaviors": len(histories.records),
        "users": len(people.table.keys),
        "ads": len(catalogue.keys),
        "requests": len(requests),
        "rows": len(rows.log_row),
        "clicked": int(rows.clicked.sum()),
        "requests_train": int(per_split[0]),
        "requests_validation": int(per_split[1]),
        "requests_test": int(per_split[2]),
    }
