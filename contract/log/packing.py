"""Columns of raw values become keys and numbers: a whole column at a time, hashed in one pass."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contract import keys
from contract.encoder import Array
from contract.errors import InputError, LogError
from contract.records import Records, empty_records
from contract.schema import Schema, SchemaField


def unique_ids(series: pl.Series) -> tuple[list[str], NDArray[np.int64]]:
    """Return the distinct ids of a column as texts, and for each row `[n]` the index of its text (-1: null)."""
    texts = series.cast(pl.String)
    distinct = texts.drop_nulls().unique().sort()
    index = texts.cast(pl.Enum(distinct)).to_physical().cast(pl.Int64).fill_null(-1)
    return distinct.to_list(), index.to_numpy()


def encoded_texts(series: pl.Series) -> tuple[bytes, NDArray[np.int64]]:
    """Return the UTF-8 bytes of a column's texts, one after another, and the length `[n]` of each (null: 0)."""
    texts = series.cast(pl.String)
    blob = texts.str.join("").cast(pl.Binary).item() if len(texts) else None
    lengths = texts.str.len_bytes().fill_null(0).cast(pl.Int64).to_numpy()
    return blob or b"", lengths


def key_series(series: pl.Series) -> NDArray[np.uint64]:
    """Return the key `[n]` of each id of a column, 0 where it is null.

    Raises:
        LogError: an id is empty or too long.

    """
    blob, lengths = encoded_texts(series)
    try:
        hashed = keys.keys_of_texts(blob, lengths)
        if not lengths.all() and bool((series.is_not_null().to_numpy() & (lengths == 0)).any()):
            keys.text_of("")  # says what is wrong with it
    except InputError as error:
        raise LogError(f"column {series.name!r}: {error}") from error
    return hashed


def pack_series(series: pl.Series, field: SchemaField) -> Array:
    """Return a column as uint64 keys (0 = missing) or float64 (NaN = missing)."""
    if field.type == "numeric":
        return series.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return key_series(series)


def pack_actions(series: pl.Series, schema: Schema) -> NDArray[np.uint8]:
    """Return the code `[n]` of each action."""
    codes = {action: code for code, action in enumerate(schema.actions, start=1)}
    packed: NDArray[np.uint8] = series.replace_strict(codes, return_dtype=pl.UInt8).to_numpy()
    return packed


def pack_records(frame: pl.DataFrame, schema: Schema) -> Records:
    """Return checked behaviours as packed records, in their order."""
    records = empty_records(schema, frame.height)
    for field in schema.behavior:
        records[field.name] = pack_series(frame[field.name], field)
    records["timestamp"] = frame["timestamp"].to_numpy()
    records["action"] = pack_actions(frame["action"], schema)
    return records
