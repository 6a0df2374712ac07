"""Keeps the table of ads like the store: fills it from the shards, then follows `ls:ads:changes`."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Final, TypeAlias

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from contract.encoder import Encoder
from contract.keys import key_hex
from contract.schema import RawValue
from service.catalog.table import AdColumns, AdId, AdTable, Packed
from service.layout import AD_SHARDS, ALL_ADS, CHANGES, META, Layout

logger = logging.getLogger(__name__)

BLOCK: Final = 64  # ads encoded in one go (~0.3 ms), so that requests get their turn during a refill
SCAN_COUNT: Final = 256
BLOCK_MS: Final = 1000  # longest wait for changes, then a look whether the store is still the one we know
ENTRIES: Final = 1000
LOOK_AGAIN_S: Final = 0.5  # pause while the store has no layout of ours
ANSWER_S: Final = BLOCK_MS / 1000 + 5.0
RETRY_S: Final = (0.05, 1.0)

EntryId: TypeAlias = tuple[int, int]
NOTHING_READ: Final[EntryId] = (0, 0)


class Catalogue:
    """All ads of the store, ready to be gathered.

    Args:
        url: redis://, rediss:// or unix:// URL.
        encoder: of the bundle; its schema names the layout.
        connect_timeout_s: longest wait for a connection.

    """

    def __init__(self, url: str, encoder: Encoder, *, connect_timeout_s: float = 1.0) -> None:
        self._encoder = encoder
        self._client = Redis.from_url(
            url,
            protocol=2,
            socket_timeout=None,  # with one, redis-py may swallow the cancellation of close(); see `_answer`
            socket_connect_timeout=connect_timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
        self._table = AdTable(encoder)
        self._layout: Layout | None = None
        self._read_up_to = NOTHING_READ
        self._filled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._table)

    @property
    def loaded(self) -> bool:
        """Whether the store's ads have been read once; a store without a layout of ours has none."""
        return self._filled.is_set()

    def start(self) -> None:
        """Begin to fill, in the running loop; returns at once, whether Redis is there or not."""
        self._task = asyncio.create_task(self._run(), name="catalogue")

    async def wait(self, timeout_s: float) -> bool:
        """Return whether the ads are loaded, waiting for that up to `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._filled.wait(), timeout_s)
        return self.loaded

    async def close(self) -> None:
        """Stop following; what is loaded stays usable."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._client.aclose()

    def columns_for(self, ids: Sequence[AdId]) -> AdColumns:
        """Return the encoded features of N ads (see `AdTable.columns_for`)."""
        return self._table.columns_for(ids)

    def raw(self, ad: AdId) -> dict[str, RawValue] | None:
        """Return an ad's raw features and display texts, or None if the store lacks it."""
        return self._table.raw(ad)

    # ---------------------------------------------------------------- the task

    async def _run(self) -> None:
        retry_s = RETRY_S[0]
        current = False
        while True:
            try:
                if not current or await self._lost_track():
                    await self._fill()
                current = True
                retry_s = RETRY_S[0]
                current = await self._follow()
            except (RedisError, OSError) as error:
                logger.warning("catalogue: %s; %d ads stay as they are", error, len(self._table))
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, RETRY_S[1])

    async def _fill(self) -> None:
        """Read all shards into a new table; the old one answers until that is done."""
        _, last = await self._edges()
        self._read_up_to = last
        meta = await _answer(self._client.hgetall(META))
        self._layout = Layout.find(meta, self._encoder.schema)
        table = AdTable(self._encoder)
        if self._layout is not None:
            for index in range(AD_SHARDS):
                await self._fill_shard(table, self._layout.shard(index))
        self._table = table
        self._filled.set()

    async def _fill_shard(self, table: AdTable, name: str) -> None:
        cursor = 0
        while True:
            cursor, part = await _answer(self._client.hscan(name, cursor, count=SCAN_COUNT))
            await _put(table, [(int(ad_key, 16), stored) for ad_key, stored in part.items()])
            if cursor == 0:
                return

    async def _follow(self) -> bool:
        """Take over changes; returns False once the shards must be read anew."""
        while self._layout is not None:
            since = f"{self._read_up_to[0]}-{self._read_up_to[1]}"
            found = await _answer(self._client.xread({CHANGES: since}, count=ENTRIES, block=BLOCK_MS))
            # asked after reading: had entries between the last one and these been cut off, it would show now
            if await self._lost_track():
                return False
            if found:
                entries = found[0][1]
                if not await self._apply(value for _, fields in entries for value in fields.values()):
                    return False
                self._read_up_to = _entry_id(entries[-1][0])
        await asyncio.sleep(LOOK_AGAIN_S)
        return False

    async def _apply(self, changes: Iterable[bytes]) -> bool:
        """Reread the ads that changed; returns False if that is all of them."""
        changed: set[bytes] = set()
        for value in changes:
            changed.update(value.split())
        if ALL_ADS in changed:
            return False
        assert self._layout is not None
        ad_keys = [int(text, 16) for text in changed]
        by_shard: dict[str, list[int]] = {}
        for ad_key in ad_keys:
            by_shard.setdefault(self._layout.shard_of(ad_key), []).append(ad_key)
        for shard, members in by_shard.items():
            stored = await _answer(self._client.hmget(shard, [key_hex(ad_key) for ad_key in members]))
            present = [
                (ad_key, value) for ad_key, value in zip(members, stored, strict=True) if value is not None
            ]
            await _put(self._table, present)
            for ad_key in set(members) - {ad_key for ad_key, _ in present}:
                self._table.remove(ad_key)
        return True

    async def _lost_track(self) -> bool:
        """Whether the entry read last is no longer in the stream: it was cut off, or the store was emptied."""
        first, last = await self._edges()
        return not first <= self._read_up_to <= last

    async def _edges(self) -> tuple[EntryId, EntryId]:
        """Return the first and the last entry of the stream; (0, 0) if it has none."""
        first = await _answer(self._client.xrange(CHANGES, count=1))
        last = await _answer(self._client.xrevrange(CHANGES, count=1))
        if not first or not last:
            return NOTHING_READ, NOTHING_READ
        return _entry_id(first[0][0]), _entry_id(last[0][0])


async def _answer(reply: Awaitable[Any]) -> Any:  # noqa: ANN401  redis-py types every reply as anything
    async with asyncio.timeout(ANSWER_S):
        return await reply


async def _put(table: AdTable, ads: Sequence[Packed]) -> None:
    for start in range(0, len(ads), BLOCK):
        table.put(ads[start : start + BLOCK])
        await asyncio.sleep(0)


def _entry_id(text: bytes) -> EntryId:
    milliseconds, _, number = text.partition(b"-")
    return int(milliseconds), int(number)
