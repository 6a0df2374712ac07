"""Loading a log: into real servers, twice, in part, beside other layouts, and against stores that refuse."""

import sys
from pathlib import Path

import msgpack
import numpy as np
import polars as pl
import pytest

from contract.errors import InputError, LogError
from contract.keys import key, key_hex
from contract.log import read_log
from service.history import load as load_module
from service.history.load import load
from service.history.reader import HistoryStore
from service.history.writer import claim_layout
from service.layout import CHANGES, META, Layout, StoreError, without_password
from tests.service.conftest import client_of
from tests.support.logs import write_log


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("logs") / "log", users=20, events=20, requests=2)


def contents(client) -> dict[bytes, object]:
    """Everything but the stream of changes."""
    names = [name for name in client.scan_iter() if name != CHANGES.encode()]
    return {
        name: client.get(name) if client.type(name) == b"string" else client.hgetall(name) for name in names
    }


def test_a_load_holds_what_the_log_holds(server, log):
    counts = load(log, redis_url=server.url)
    source = read_log(log)
    histories = source.histories()
    assert counts == {
        "layout": 1,
        "users": len(histories.user_keys),
        "events": len(histories.records),
        "trimmed": 0,
        "profiles": 20,
        "ads": 60,
        "store": server.url,
    }
    layout = Layout(1)
    for i, user_key in enumerate(histories.user_keys.tolist()):
        expected = histories.records[histories.offsets[i] : histories.offsets[i + 1]]
        assert server.client.get(layout.history(user_key)) == expected.tobytes()
    assert server.client.hgetall(layout.profile(key("u2"))) == {b"user_id": b"u2", b"city": b"c2"}
    assert server.client.hgetall(layout.profile(key("u3"))) == {b"user_id": b"u3"}
    stored = server.client.hget(layout.shard_of(key(8)), key_hex(key(8)))
    assert msgpack.unpackb(stored) == {"ad_id": 8, "kind": "k2", "price": 4.0, "name": "item 8"}
    assert "price" not in msgpack.unpackb(server.client.hget(layout.shard_of(key(7)), key_hex(key(7))))
    assert [fields for _, fields in server.client.xrange(CHANGES)] == [{b"ads": b"*"}]


def test_an_ad_is_in_the_shard_of_its_top_byte():
    assert Layout(3).shard_of(0xAB00000000000001) == "ls:3:ads:ab"
    assert Layout(3).history(0xAB00000000000001) == "ls:3:{ab00000000000001}:h"


def test_loading_twice_gives_the_same(server, log):
    load(log, redis_url=server.url)
    once = contents(server.client)
    load(log, redis_url=server.url)
    assert contents(server.client) == once


def test_until_loads_strictly_older_events_and_takes_newer_ones_away(server, log):
    load(log, redis_url=server.url)
    everything = contents(server.client)
    times = read_log(log).histories().records["timestamp"]
    until = int(np.median(times))
    counts = load(log, redis_url=server.url, until=until)
    assert counts["events"] == int((times < until).sum())
    none_left = load(log, redis_url=server.url, until=0)
    assert (none_left["users"], none_left["events"]) == (0, 0)
    assert not list(server.client.scan_iter("*:h"))
    load(log, redis_url=server.url)
    assert contents(server.client) == everything


def test_a_field_that_a_later_log_lacks_is_taken_away(server, log, tmp_path):
    load(log, redis_url=server.url)
    later = tmp_path / "later"
    later.mkdir()
    for file in log.iterdir():
        (later / file.name).write_bytes(file.read_bytes())
    pl.read_parquet(log / "users.parquet").with_columns(city=pl.lit(None, dtype=pl.String)).write_parquet(
        later / "users.parquet"
    )
    load(later, redis_url=server.url)
    assert server.client.hgetall(Layout(1).profile(key("u2"))) == {b"user_id": b"u2"}


def test_another_schema_takes_the_next_layout_and_leaves_the_first_alone(server, log, tmp_path):
    load(log, redis_url=server.url)
    before = contents(server.client)
    other = write_log(tmp_path / "other", users=5, events=5, requests=1)
    schema = (other / "schema.toml").read_text().replace('name = "spent"', 'name = "paid"')
    (other / "schema.toml").write_text(schema)
    renamed = pl.read_parquet(other / "behaviors.parquet").rename({"spent": "paid"})
    renamed.write_parquet(other / "behaviors.parquet")
    assert load(other, redis_url=server.url)["layout"] == 2
    assert load(log, redis_url=server.url)["layout"] == 1
    after = contents(server.client)
    assert {name: after[name] for name in before if name != META.encode()} == {
        name: value for name, value in before.items() if name != META.encode()
    }


def test_a_schema_that_differs_elsewhere_shares_the_layout(server, log):
    schema = read_log(log).schema
    number = claim_layout(server.client, schema).number
    wider = schema.model_copy(update={"context": (), "user": ()})
    assert claim_layout(server.client, wider).number == number
    assert list(server.client.hgetall(META)) == [b"1"]
    assert b'"struct":"<QQfIB7x"' in server.client.hget(META, "1")


def test_the_next_number_is_beyond_the_largest_and_junk_is_left_alone(server, log):
    server.client.hset(META, mapping={"4": "{}", "note": "not ours"})
    assert claim_layout(server.client, read_log(log).schema).number == 5


async def test_what_was_loaded_is_what_requests_read(server, log):
    load(log, redis_url=server.url)
    source = read_log(log)
    histories = source.histories()
    store = HistoryStore(server.url, source.schema, history_length=8, timeout_s=1.0)
    store.start()
    assert (await store.wait(5)).layout == 1
    for i, user_key in enumerate(histories.user_keys.tolist()):
        mine = histories.records[histories.offsets[i] : histories.offsets[i + 1]]
        for at in (30_000, 60_000, 200_000):
            history = await store.fetch(user_key, at)
            assert history.records.tobytes() == mine[mine["timestamp"] < at][-8:].tobytes()
    await store.close()


def test_more_events_than_are_kept_are_trimmed_to_the_newest(server, log, tmp_path, monkeypatch):
    monkeypatch.setattr(load_module, "max_stored", lambda: 5)
    counts = load(log, redis_url=server.url)
    histories = read_log(log).histories()
    lengths = np.diff(histories.offsets)
    assert counts["events"] == int(np.minimum(lengths, 5).sum())
    assert counts["trimmed"] == int(lengths.sum()) - counts["events"]
    longest = int(lengths.argmax())
    mine = histories.records[histories.offsets[longest] : histories.offsets[longest + 1]]
    assert server.client.get(Layout(1).history(int(histories.user_keys[longest]))) == mine[-5:].tobytes()


def test_the_embedded_store_keeps_a_load(log, tmp_path):
    steps = []
    counts = load(log, embedded_dir=tmp_path / "store", progress=lambda *step: steps.append(step))
    assert counts["store"].startswith("unix://")
    total = 20 + counts["profiles"] + counts["ads"]
    assert (total, total, "writing") in steps
    assert steps[-1][2] == "rewriting the append-only file"
    again = load(log, embedded_dir=tmp_path / "store")
    assert again == counts


def test_exactly_one_store_must_be_named(log, tmp_path):
    for stores in ({}, {"redis_url": "redis://x", "embedded_dir": tmp_path}):
        with pytest.raises(InputError, match="one store"):
            load(log, **stores)


@pytest.mark.parametrize(
    ("url", "reason"),
    [("redis://:secret@127.0.0.1:1/0", r"\*\*\*@127.0.0.1:1/0: .*refused"), ("http://x", "not a Redis URL")],
)
def test_a_store_that_can_not_be_reached_is_named_without_its_password(log, url, reason):
    with pytest.raises((StoreError, InputError), match=reason) as caught:
        load(log, redis_url=url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_full_store_is_one_clear_line(own_server, log):
    own_server.client.config_set("maxmemory", "1mb")
    with pytest.raises(StoreError, match=r"^unix://.*: command not allowed when used memory") as caught:
        load(log, redis_url=own_server.url)
    assert "\n" not in str(caught.value)


def test_a_bad_log_is_refused_before_anything_is_written(server, log, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in log.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "ads.parquet").write_bytes(b"no parquet")
    with pytest.raises(LogError, match=r"ads\.parquet"):
        load(broken, redis_url=server.url)
    assert server.client.dbsize() == 0


def test_without_polars_the_extra_is_named(log, monkeypatch):
    monkeypatch.delitem(sys.modules, "contract.log")
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(InputError, match=r"needs polars; install .*longsight\[train,serve\]"):
        load(log, redis_url="redis://127.0.0.1:1/0")


def test_a_password_is_never_shown():
    assert without_password("rediss://me:s3:c@host:1/0") == "rediss://me:***@host:1/0"
    assert without_password("redis://:s@host") == "redis://:***@host"
    assert without_password("unix:///a/b.sock?db=1") == "unix:///a/b.sock?db=1"


def test_a_joined_server_is_loaded_into(own_server, log):
    load(log, embedded_dir=own_server.folder)
    with client_of(own_server.url) as client:
        assert client.hlen(META) == 1
