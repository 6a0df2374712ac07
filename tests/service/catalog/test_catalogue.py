"""The catalogue on real servers: filled, followed, refilled."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest

from contract.encoder import Encoder, Transform
from contract.keys import key, key_hex, keys
from contract.schema import Schema
from contract.vocabulary import Vocabulary
from service.catalog import AdTable, Catalogue
from service.history.writer import StoreWriter, claim_layout
from service.layout import CHANGES, Layout, changes_entry, pack_ad

SCHEMA = Schema.from_json(
    {
        "vocabularies": {"item": {"kind": "exact", "oov_buckets": 3}, "kind": {"kind": "exact"}},
        "behavior": [{"name": "item_id", "type": "categorical", "vocabulary": "item"}],
        "ad": [
            {"name": "ad_id", "type": "categorical", "vocabulary": "item", "matches": "item_id"},
            {"name": "kind", "type": "categorical", "vocabulary": "kind"},
            {"name": "price", "type": "numeric", "transform": "log1p", "default": 2.0},
        ],
    }
)
ADS = [{"ad_id": i, "kind": f"k{i % 4}", "price": i / 7, "name": f"Ad {i}"} for i in range(700)]


def encoder() -> Encoder:
    known = {"item": range(600), "kind": ["k0", "k1", "k2"]}
    vocabularies = {
        name: Vocabulary(SCHEMA.vocabularies[name], np.sort(keys(ids))) for name, ids in known.items()
    }
    return Encoder(SCHEMA, vocabularies, {"ad.price": Transform("log1p", 2.0)}, history_length=5)


def fill(server, ads) -> Layout:
    layout = claim_layout(server.client, SCHEMA)
    StoreWriter(server.client, SCHEMA, layout).ads(ads, advance=lambda _count: None)
    return layout


def put(server, layout, *ads):
    """What a write of single ads does."""
    for ad in ads:
        ad_key = key(ad["ad_id"])
        server.client.hset(layout.shard_of(ad_key), key_hex(ad_key), pack_ad(ad))
    server.client.xadd(CHANGES, changes_entry(key(ad["ad_id"]) for ad in ads))


@asynccontextmanager
async def opened(server, *, wait=True) -> AsyncIterator[Catalogue]:
    catalogue = Catalogue(server.url, encoder())
    catalogue.start()
    try:
        if wait:
            assert await catalogue.wait(5)
        yield catalogue
    finally:
        await catalogue.close()


async def eventually(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  another process makes it true
            await asyncio.sleep(0.01)


def same(found, ads) -> bool:
    expected = encoder().ads(ads)
    return found.keys() == expected.keys() and all((found[name] == expected[name]).all() for name in expected)


async def test_every_ad_is_encoded_as_the_encoder_does(server):
    fill(server, ADS)
    async with opened(server) as catalogue:
        assert len(catalogue) == 700
        order = np.random.default_rng(0).permutation(700).tolist()
        columns = catalogue.columns_for(order)
    assert columns.unknown == 0
    assert same(columns.tensors, [ADS[i] for i in order])
    assert columns.tensors["ad_price"].dtype == np.float32


async def test_an_id_is_the_same_as_number_and_text_and_twice(server):
    fill(server, ADS)
    async with opened(server) as catalogue:
        assert same(catalogue.columns_for([5, "5", 5]).tensors, [ADS[5]] * 3)
        assert catalogue.raw("5") == catalogue.raw(5) == ADS[5]


async def test_of_an_unknown_ad_only_the_id_is_encoded(server):
    fill(server, ADS[:10])
    async with opened(server) as catalogue:
        columns = catalogue.columns_for(["nobody", 3, 599])
        assert columns.unknown == 2
        assert same(columns.tensors, [{"ad_id": "nobody"}, ADS[3], {"ad_id": 599}])
        assert catalogue.raw("nobody") is None


async def test_without_ads_everything_is_unknown(server):
    async with opened(server) as catalogue:
        assert catalogue.loaded
        columns = catalogue.columns_for([1, 2])
        assert columns.unknown == 2
        assert same(columns.tensors, [{"ad_id": 1}, {"ad_id": 2}])


async def test_changes_are_followed_within_a_second(server):
    layout = fill(server, ADS)
    async with opened(server) as catalogue:
        changed, new = {"ad_id": 5, "kind": "k1"}, {"ad_id": "new", "kind": "k2", "price": 1.0}
        put(server, layout, changed, new)
        await eventually(lambda: catalogue.raw("new"), timeout_s=1.0)
        columns = catalogue.columns_for([5, "new", 6])
        assert columns.unknown == 0
        assert same(columns.tensors, [changed, new, ADS[6]])


async def test_a_deleted_ad_is_unknown_and_its_place_is_used_again(server):
    layout = fill(server, ADS)
    async with opened(server) as catalogue:
        server.client.hdel(layout.shard_of(key(7)), key_hex(key(7)))
        server.client.xadd(CHANGES, changes_entry([key(7), key("was never there")]))
        await eventually(lambda: catalogue.raw(7) is None, timeout_s=1.0)
        assert catalogue.columns_for([7]).unknown == 1
        put(server, layout, {"ad_id": "next", "kind": "k0"})
        await eventually(lambda: catalogue.raw("next"), timeout_s=1.0)
        assert len(catalogue) == 700
        assert same(catalogue.columns_for(["next", 8]).tensors, [{"ad_id": "next", "kind": "k0"}, ADS[8]])


async def test_a_bulk_load_is_followed_whole_deletions_included(server):
    layout = fill(server, ADS)
    async with opened(server) as catalogue:
        for name in server.client.scan_iter(layout.shard(0)[:-2] + "*"):
            server.client.delete(name)
        fill(server, [{"ad_id": 1, "kind": "k2"}])
        await eventually(lambda: len(catalogue) == 1, timeout_s=2.0)
        assert same(catalogue.columns_for([1]).tensors, [{"ad_id": 1, "kind": "k2"}])


async def test_a_load_into_an_empty_store_is_found(server):
    async with opened(server) as catalogue:
        fill(server, ADS)
        await eventually(lambda: len(catalogue) == 700, timeout_s=2.0)


async def test_a_follower_whose_last_entry_was_cut_off_reads_everything_anew(server):
    layout = fill(server, ADS)
    async with opened(server) as catalogue:
        ad_key = key(7)
        transaction = server.client.pipeline(transaction=True)
        transaction.hset(layout.shard_of(ad_key), key_hex(ad_key), pack_ad({"ad_id": 7, "kind": "k3"}))
        transaction.xadd(CHANGES, changes_entry([ad_key]))
        transaction.xadd(CHANGES, changes_entry([key(8)]))
        transaction.xtrim(CHANGES, maxlen=1, approximate=False)  # the entry about 7 is never seen
        transaction.execute()
        await eventually(lambda: catalogue.raw(7) == {"ad_id": 7, "kind": "k3"}, timeout_s=2.0)


async def test_an_emptied_store_empties_the_catalogue(server):
    fill(server, ADS)
    async with opened(server) as catalogue:
        server.client.flushall()
        await eventually(lambda: len(catalogue) == 0, timeout_s=3.0)


async def test_ads_that_can_not_be_used_cost_only_themselves(server, caplog):
    layout = fill(server, ADS[:3])
    for name, stored in [
        ("no msgpack", b"\xc1"),
        ("no map", b"\x01"),
        ("no id", pack_ad({"kind": "k1"})),
        ("bad price", pack_ad({"ad_id": "bad price", "price": "dear"})),
        ("another", pack_ad({"ad_id": "someone else"})),
    ]:
        server.client.hset(layout.shard_of(key(name)), key_hex(key(name)), stored)
    async with opened(server) as catalogue:
        assert len(catalogue) == 3
        assert same(catalogue.columns_for([0, 1, 2]).tensors, ADS[:3])
    assert caplog.text.count("can't be used") == 5
    assert "'dear'" in caplog.text


async def test_the_ads_outlive_the_store_and_follow_it_again(own_server):
    layout = fill(own_server, ADS)
    async with opened(own_server) as catalogue:
        await asyncio.to_thread(own_server.kill)
        await asyncio.sleep(0.05)
        assert catalogue.columns_for([1, 2]).unknown == 0
        await asyncio.to_thread(own_server.start)
        put(own_server, layout, {"ad_id": "new", "kind": "k1"})
        await eventually(lambda: catalogue.raw("new"))
        assert len(catalogue) == 701


async def test_an_absent_store_is_not_loaded_until_it_comes(own_server):
    fill(own_server, ADS)
    await asyncio.to_thread(own_server.stop)
    async with opened(own_server, wait=False) as catalogue:
        assert not await catalogue.wait(0.1)
        await asyncio.to_thread(own_server.start)
        assert await catalogue.wait(5)
        assert len(catalogue) == 700


async def test_closing_at_any_moment_takes_no_time(server):
    fill(server, ADS)
    for pause_s in np.linspace(0, 0.05, 12):
        catalogue = Catalogue(server.url, encoder())
        catalogue.start()
        await asyncio.sleep(pause_s)
        async with asyncio.timeout(1):
            await catalogue.close()


def test_a_table_grows_and_keeps_what_it_had():
    table = AdTable(encoder())
    for start in range(0, 5000, 500):
        ads = [{"ad_id": f"a{i}", "price": float(i)} for i in range(start, start + 500)]
        table.put([(key(ad["ad_id"]), pack_ad(ad)) for ad in ads])
    every = [{"ad_id": f"a{i}", "price": float(i)} for i in range(5000)]
    assert same(table.columns_for([ad["ad_id"] for ad in every]).tensors, every)


@pytest.mark.parametrize("count", [0, 1])
def test_so_many_ads_are_so_many_columns(count):
    columns = AdTable(encoder()).columns_for(["x"] * count)
    assert {len(column) for column in columns.tensors.values()} == {count}
