"""What stands where in Redis: key names, layout numbers, packed ads. Pure text and bytes; no connection here.

| key | type | value |
|---|---|---|
| `ls:<layout>:{<user key>}:h` | string | packed behaviour records, oldest first |
| `ls:<layout>:{<user key>}:p` | hash | profile as texts: `user_id` and the schema's user fields |
| `ls:<layout>:ads:<00..ff>` | hash | ad key (hex) -> msgpack of raw features; shard = the key's top byte |
| `ls:ads:changes` | stream, capped | field `ads`: changed ad keys (hex, space between), or `*` = all |
| `ls:meta` | hash | layout number -> JSON of `describe` |

A layout is a way to read history bytes. Two schemas share one when their behaviour fields (names, kinds, order)
and actions are equal, whatever else differs: retraining keeps a store, and one store can serve many bundles.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import msgpack
import numpy as np

from contract.errors import LongsightError
from contract.keys import key_hex
from contract.records import record_dtype
from contract.schema import RawValue, Schema

META: Final = "ls:meta"
CHANGES: Final = "ls:ads:changes"
CHANGES_FIELD: Final = b"ads"
ALL_ADS: Final = b"*"
CHANGES_KEPT: Final = 10_000  # entries of the changes stream; a follower further behind refills
AD_SHARDS: Final = 256
EXTRA_RECORDS: Final = 64  # read beyond L, so that a request slightly in the past needs no second read
DEFAULT_MAX_STORED: Final = 10_000  # events kept per user, where L is not known
_OF_A_USER: Final = re.compile(rb"ls:\d+:\{([0-9a-f]{16})\}:[hp]")


class StoreError(LongsightError):
    """The store can't be reached, refuses, or holds what does not belong there; the message says which."""


@dataclass(frozen=True)
class Layout:
    """The keys of one layout number."""

    number: int

    def history(self, user_key: int) -> str:
        """Return the name of a user's packed records."""
        return f"ls:{self.number}:{{{key_hex(user_key)}}}:h"

    def profile(self, user_key: int) -> str:
        """Return the name of a user's profile."""
        return f"ls:{self.number}:{{{key_hex(user_key)}}}:p"

    def shard(self, index: int) -> str:
        """Return the name of one ad shard; `index` in 0..255."""
        return f"ls:{self.number}:ads:{index:02x}"

    def shard_of(self, ad_key: int) -> str:
        """Return the name of the shard that holds an ad."""
        return self.shard(ad_key >> 56)

    @classmethod
    def find(cls, meta: Mapping[bytes, bytes], schema: Schema) -> Self | None:
        """Return the layout in `ls:meta` that is this schema's (the lowest, if several are), or None."""
        own = describe(schema)
        numbers = [int(number) for number, value in meta.items() if number.isdigit() and _same(value, own)]
        return cls(min(numbers)) if numbers else None


def describe(schema: Schema) -> dict[str, Any]:
    """Return what decides how history bytes are read; `struct` is spelt as in Python's struct module."""
    dtype = record_dtype(schema)
    codes = {"<u8": "Q", "<f4": "f", "<u4": "I", "|u1": "B"}
    parts = [dtype[name] for name in dtype.names or ()]
    struct = "<" + "".join(codes.get(part.str) or f"{part.itemsize}x" for part in parts)
    return {
        "struct": struct,
        "behavior": [[field.name, field.type] for field in schema.behavior],
        "actions": list(schema.actions),
    }


def describe_json(schema: Schema) -> str:
    """Return `describe` as the JSON that stands in `ls:meta`."""
    return json.dumps(describe(schema), separators=(",", ":"))


def foreign(meta: Mapping[bytes, bytes], schema: Schema) -> str:
    """Return one line on why none of the layouts in `ls:meta` is this schema's."""
    number = min(meta)
    own = describe(schema)
    try:
        theirs = json.loads(meta[number])
        different = [name for name in own if theirs.get(name) != own[name]]
        name = different[-1]
        detail = f"its {name} are {theirs.get(name)!r}, the bundle's {own[name]!r}"
    except (ValueError, AttributeError, IndexError):
        detail = f"its description is not readable: {meta[number][:80]!r}"
    return (
        f"the store holds {len(meta)} layout(s), none of them this bundle's; layout "
        f"{number.decode(errors='replace')}: {detail}; load a log of the bundle's schema, or name another store"
    )


def user_of(name: bytes) -> int | None:
    """Return whose history or profile has this name; None if it names something else."""
    found = _OF_A_USER.fullmatch(name)
    return int(found[1], 16) if found else None


def pack_ad(features: Mapping[str, RawValue]) -> bytes:
    """Return the stored form of an ad's raw features; missing ones (None) are left out."""
    present = {name: value for name, value in features.items() if value is not None}
    return bytes(msgpack.packb(present))


def unpack_ad(stored: bytes) -> dict[str, RawValue]:
    """Return an ad's raw features.

    Raises:
        StoreError: the bytes are not a packed ad.

    """
    try:
        features = msgpack.unpackb(stored)
    except (ValueError, msgpack.UnpackException) as error:
        raise StoreError(f"an ad in the store is not msgpack: {error}") from error
    if not isinstance(features, dict):
        raise StoreError(f"an ad in the store is a {type(features).__name__}, not a map of features")
    return features


def changes_entry(ad_keys: Iterable[int] | None) -> dict[bytes, bytes]:
    """Return the entry of `ls:ads:changes` for some ads, or (None) for the whole catalogue."""
    value = ALL_ADS if ad_keys is None else " ".join(map(key_hex, ad_keys)).encode()
    return {CHANGES_FIELD: value}


def max_stored(history_length: int | None = None) -> int:
    """Return how many events of a user are kept: 10,000, or 4 L if that is more."""
    return max(DEFAULT_MAX_STORED, 4 * (history_length or 0))


def itemsize(schema: Schema) -> int:
    """Return the bytes of one packed record."""
    return int(np.dtype(record_dtype(schema)).itemsize)


def without_password(url: str) -> str:
    """Return a URL as it may be shown."""
    return re.sub(r"(://[^/@:]*:)[^/@]*@", r"\1***@", url)


def _same(value: bytes, own: Mapping[str, Any]) -> bool:
    try:
        return bool(json.loads(value) == own)
    except ValueError:
        return False
