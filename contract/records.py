"""Packed behaviour records: one fixed-size little-endian row per event, the same bytes on disk and in Redis.

Layout: the schema's behaviour fields in order (categorical uint64 key, numeric float32, NaN = missing),
uint32 timestamp (seconds UTC), uint8 action code (index + 1), zero-padded to a multiple of 8 bytes.
"""

from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from contract.schema import Schema

Records: TypeAlias = NDArray[np.void]  # structured, of `record_dtype(schema)`

MAX_TIMESTAMP: Final = 2**32 - 1
_ALIGNMENT: Final = 8
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)


def record_dtype(schema: Schema) -> np.dtype[np.void]:
    """Return the structured dtype of one packed event: the behaviour fields, `timestamp`, `action`, padding."""
    parts: list[tuple[str, str]] = [
        (field.name, "<u8" if field.type == "categorical" else "<f4") for field in schema.behavior
    ]
    parts += [("timestamp", "<u4"), ("action", "u1")]
    slack = -np.dtype(parts).itemsize % _ALIGNMENT
    if slack:
        # A named field, since numpy may leave gaps between fields behind when it copies.
        parts.append(("_padding", f"V{slack}"))
    return np.dtype(parts)


def count_before(times: NDArray[np.uint32], cut: int) -> int:
    """Return how many of ascending, contiguous times `[R]` lie before second `cut`."""
    if cut > MAX_TIMESTAMP:
        return len(times)
    # a scalar of another type would make numpy convert the whole array first
    return int(np.searchsorted(times, np.uint32(max(cut, 0)), side="left"))


def empty_records(schema: Schema, count: int = 0) -> Records:
    """Return `count` zeroed records."""
    return np.zeros(count, dtype=record_dtype(schema))


def time_order(users: NDArray[Any], records: Records) -> NDArray[np.int64]:
    """Return the indices that put records `[n]` in (user, time) order, identical ones dropped.

    Stable: events of one user and second keep the order they came in. Of several identical records (all
    bytes equal, so also the timestamp) of one user the first stays, as the store does when it appends.

    Args:
        users: `[n]` the user of each record as a number below 2^32, such as a place in a table.
        records: `[n]`.

    """
    place = (users.astype(np.uint64) << np.uint64(32)) | records["timestamp"].astype(np.uint64)
    order = np.argsort(place, kind="stable")
    place = place[order]
    alike = np.flatnonzero(place[1:] == place[:-1])
    if not alike.size:
        return order
    # only records of one user and second can be identical: these alone are looked at
    crowded = np.unique(np.concatenate([alike, alike + 1]))
    again = crowded[_repeats(place[crowded], records[order[crowded]])]
    return np.delete(order, again)


def _repeats(place: NDArray[np.uint64], records: Records) -> NDArray[np.bool_]:
    """Return which records `[n]` equal an earlier one of the same place; places stand together."""
    count = len(records)
    words = np.ascontiguousarray(records).view(np.uint64).reshape(count, records.dtype.itemsize // 8)
    digest = np.zeros(count, dtype=np.uint64)
    for column in range(words.shape[1]):
        digest = (digest ^ words[:, column]) * _MIX
        digest ^= digest >> np.uint64(29)
    grouped = np.lexsort((digest, place))  # stable, so the first of a group is the earliest
    before, after = grouped[:-1], grouped[1:]
    same = (place[before] == place[after]) & (digest[before] == digest[after])
    same[same] = (words[before[same]] == words[after[same]]).all(axis=1)
    repeats = np.zeros(count, dtype=bool)
    repeats[after[same]] = True
    return repeats
