"""Writes a log's histories, profiles and ads in bulk: one value per user, pipelined, safe to repeat.

A load replaces the history and the profile of every user in the log, and the ads of the log. Users and ads that the
log does not name stay as they are. Nothing is deleted first, so a service that reads meanwhile sees the old value or
the new one, never a part.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeAlias, TypeVar

import redis

from contract.keys import key_hex, keys
from contract.records import Records
from contract.schema import RawValue, Schema
from service.layout import (
    AD_SHARDS,
    CHANGES,
    CHANGES_KEPT,
    META,
    Layout,
    changes_entry,
    describe_json,
    pack_ad,
)

PIPELINE_BYTES: Final = 1 << 20
ADS_PER_COMMAND: Final = 500
PROFILES_PER_PIPELINE: Final = 1000
USER_ID: Final = "user_id"

Advance: TypeAlias = Callable[[int], None]
T = TypeVar("T")


class StoreWriter:
    """Writes into one store in one layout.

    Args:
        client: connected, without response decoding.
        schema: of the log.
        layout: from `claim_layout`.

    """

    def __init__(self, client: "redis.Redis", schema: Schema, layout: Layout) -> None:
        self._client = client
        self._schema = schema
        self._layout = layout

    def histories(self, histories: Iterable[tuple[int, Records]], *, advance: Advance) -> None:
        """Write users' records (key, records in time order); a user without any has none afterwards."""
        pipeline = self._client.pipeline(transaction=False)
        waiting_bytes = 0
        users = 0
        for user_key, records in histories:
            name = self._layout.history(user_key)
            if len(records):
                pipeline.set(name, records.tobytes())
            else:
                pipeline.delete(name)
            waiting_bytes += records.nbytes
            users += 1
            if waiting_bytes >= PIPELINE_BYTES or users == PROFILES_PER_PIPELINE:
                pipeline.execute()
                advance(users)
                waiting_bytes = users = 0
        pipeline.execute()
        advance(users)

    def profiles(self, profiles: Iterable[tuple[int, Mapping[str, RawValue]]], *, advance: Advance) -> None:
        """Write users' raw texts (key, features with `user_id`); a field that is None is removed."""
        names = [USER_ID, *(field.name for field in self._schema.user)]
        for chunk in _chunks(profiles, PROFILES_PER_PIPELINE):
            pipeline = self._client.pipeline(transaction=False)
            for user_key, features in chunk:
                name = self._layout.profile(user_key)
                known: dict[Any, Any] = {
                    field: str(value) for field, value in features.items() if value is not None
                }
                pipeline.hset(name, mapping=known)
                if absent := [field for field in names if field not in known]:
                    pipeline.hdel(name, *absent)
            pipeline.execute()
            advance(len(chunk))

    def ads(self, ads: Sequence[Mapping[str, RawValue]], *, advance: Advance) -> None:
        """Write raw ads, each with its `ad_id`, and tell the followers that everything may have changed."""
        shards: list[list[tuple[str, bytes]]] = [[] for _ in range(AD_SHARDS)]
        for ad_key, features in zip(keys(ad["ad_id"] for ad in ads).tolist(), ads, strict=True):
            shards[ad_key >> 56].append((key_hex(ad_key), pack_ad(features)))
        for index, shard in enumerate(shards):
            for chunk in _chunks(shard, ADS_PER_COMMAND):
                self._client.hset(self._layout.shard(index), mapping=dict(chunk))
                advance(len(chunk))
        entry: dict[Any, Any] = {**changes_entry(None)}
        self._client.xadd(CHANGES, entry, maxlen=CHANGES_KEPT, approximate=True)


def claim_layout(client: "redis.Redis", schema: Schema) -> Layout:
    """Return this schema's layout, taking the next free number if the store has none yet."""
    while True:
        meta: dict[Any, Any] = client.hgetall(META)
        layout = Layout.find(meta, schema)
        if layout is not None:
            return layout
        free = 1 + max((int(number) for number in meta if number.isdigit()), default=0)
        # another loader may take the number first: then look again
        client.hsetnx(META, str(free), describe_json(schema))


def _chunks(values: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(values)
    while chunk := list(islice(iterator, size)):
        yield chunk
