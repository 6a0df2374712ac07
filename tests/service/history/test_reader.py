"""Reading histories from real servers."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import groupby

import numpy as np
import pytest

from contract.errors import InputError
from contract.keys import key
from contract.records import empty_records
from contract.schema import Schema
from service.history.mark import Mark
from service.history.read import Read, ReadPlan
from service.history.reader import HistoryStore
from service.history.writer import StoreWriter, claim_layout
from service.layout import Layout

SCHEMA = Schema.from_json(
    {
        "actions": ["view", "buy"],
        "vocabularies": {"item": {"kind": "hashed", "rows": 8}},
        "behavior": [
            {"name": "item_id", "type": "categorical", "vocabulary": "item"},
            {"name": "spent", "type": "numeric"},
        ],
        "ad": [{"name": "ad_id", "type": "categorical", "vocabulary": "item", "matches": "item_id"}],
        "user": [
            {"name": "city", "type": "categorical", "vocabulary": "item"},
            {"name": "income", "type": "numeric"},
        ],
    }
)
OTHER_ACTIONS = SCHEMA.model_copy(update={"actions": ("view", "order")})
LATE = 4_000_000_000


def records(times):
    made = empty_records(SCHEMA, len(times))
    made["item_id"] = np.arange(1, len(times) + 1)
    made["timestamp"] = np.sort(times)
    made["action"] = 1
    return made


def write(server, histories, profiles=()):
    writer = StoreWriter(server.client, SCHEMA, claim_layout(server.client, SCHEMA))
    writer.histories(((key(user), value) for user, value in histories.items()), advance=lambda _count: None)
    writer.profiles([(key(row["user_id"]), row) for row in profiles], advance=lambda _count: None)


@asynccontextmanager
async def opened(server, *, history_length=10, wait=True, **options) -> AsyncIterator[HistoryStore]:
    options = {"timeout_s": 0.5, **options}  # generous: these tests share a machine
    store = HistoryStore(server.url, SCHEMA, history_length=history_length, **options)
    store.start()
    try:
        if wait:
            await store.wait(5)
        yield store
    finally:
        await store.close()


async def eventually(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  the condition may be another process's
            await asyncio.sleep(0.01)


async def test_a_history_is_the_newest_events_strictly_before_the_request(server):
    everything = records([10 * i for i in range(1, 31)])
    write(server, {"u": everything})
    async with opened(server) as store:
        now = await store.fetch(key("u"), LATE)
        then = await store.fetch(key("u"), 200)
    assert now.status == then.status == "hit"
    assert now.records.tobytes() == everything[-10:].tobytes()
    assert now.newest_age_s == LATE - 300
    assert then.records["timestamp"].tolist() == list(range(100, 200, 10))
    assert not now.extended


async def test_the_history_lag_ends_it_earlier(server):
    write(server, {"u": records([10, 20, 30, 40])})
    async with opened(server, lag_s=15) as store:
        history = await store.fetch(key("u"), 45)
    assert history.records["timestamp"].tolist() == [10, 20]
    assert history.newest_age_s == 25


async def test_who_has_no_events_or_no_name_has_an_empty_history(server):
    write(server, {"u": records([10])})
    async with opened(server) as store:
        stranger, nobody, too_early = await asyncio.gather(
            store.fetch(key("stranger"), LATE), store.fetch(0, LATE), store.fetch(key("u"), 10)
        )
    assert [history.status for history in (stranger, nobody, too_early)] == ["empty"] * 3
    assert stranger.records.dtype == records([]).dtype
    assert stranger.newest_age_s is None


async def test_a_profile_comes_with_the_history(server):
    profiles = [{"user_id": "u", "city": "Oslo", "income": 12.5}, {"user_id": "v", "city": None, "income": 3}]
    write(server, {"u": records([10])}, profiles)
    async with opened(server) as store:
        assert (await store.fetch(key("u"), LATE)).profile == {"city": "Oslo", "income": 12.5}
        assert (await store.fetch(key("v"), LATE)).profile == {"income": 3.0}
        assert (await store.fetch(key("w"), LATE)).profile == {}


async def test_a_request_of_the_past_is_read_back_until_it_is_full(server):
    random = np.random.default_rng(0)
    users = {f"u{i}": records(random.integers(0, 1000, random.integers(0, 900))) for i in range(40)}
    write(server, users)
    async with opened(server, history_length=20) as store:
        asked = [(user, int(cut)) for user in users for cut in random.integers(0, 1001, 5)]
        histories = await asyncio.gather(*[store.fetch(key(user), cut) for user, cut in asked])
    extended = 0
    for (user, cut), history in zip(asked, histories, strict=True):
        expected = users[user][users[user]["timestamp"] < cut][-20:]
        assert history.records.tobytes() == expected.tobytes()
        extended += history.extended
    assert 50 < extended < len(asked)


async def test_reads_of_the_past_are_right_while_events_arrive(server):
    past = records(np.arange(1000))
    write(server, {"u": past})
    name = claim_layout(server.client, SCHEMA).history(key("u"))
    async with opened(server, history_length=5) as store:

        async def append() -> None:
            for i in range(300):
                new = records([5000])
                new["item_id"] += i
                server.client.append(name, new.tobytes())
                await asyncio.sleep(0)

        writing = asyncio.create_task(append())
        while not writing.done():
            histories = await asyncio.gather(*[store.fetch(key("u"), cut) for cut in (3, 40, 400, 900)])
            for cut, history in zip((3, 40, 400, 900), histories, strict=True):
                assert history.records["timestamp"].tolist() == list(range(max(0, cut - 5), cut))
        await writing


async def test_what_waits_shares_round_trips(server, monkeypatch):
    write(server, {f"u{i}": records([i + 1]) for i in range(100)})
    async with opened(server) as store:
        sent = []
        send = store._link.send

        def counting(commands: bytes) -> None:
            sent.append(commands.count(b"GETRANGE"))
            send(commands)

        monkeypatch.setattr(store._link, "send", counting)
        histories = await asyncio.gather(*[store.fetch(key(f"u{i}"), LATE) for i in range(100)])
    assert [int(history.records["timestamp"][0]) for history in histories] == list(range(1, 101))
    assert [count for count in sent if count] == [64, 36]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda client, name: client.rpush(name, "x"), "WRONGTYPE"),
        (lambda client, name: client.set(name, records([1, 2]).tobytes()[:-1]), "multiple"),
        (lambda client, name: client.set(name, records([1, 2])[::-1].tobytes()), "order of time"),
    ],
    ids=["wrong type", "cut short", "out of order"],
)
async def test_a_damaged_value_costs_its_user_only(server, caplog, spoil, reason):
    write(server, {"good": records([5])})
    spoil(server.client, claim_layout(server.client, SCHEMA).history(key("bad")))
    async with opened(server) as store:
        bad, good = await asyncio.gather(store.fetch(key("bad"), LATE), store.fetch(key("good"), LATE))
    assert (bad.status, len(bad.records)) == ("unavailable", 0)
    assert reason in bad.detail
    assert good.status == "hit"
    assert "can't be read" in caplog.text


async def test_a_profile_that_is_no_hash_or_no_number_is_unavailable(server):
    write(server, {"u": records([5]), "v": records([5])}, [{"user_id": "v", "city": "x", "income": "much"}])
    server.client.set(claim_layout(server.client, SCHEMA).profile(key("u")), "text")
    async with opened(server) as store:
        assert [(await store.fetch(key(user), LATE)).status for user in "uv"] == ["unavailable"] * 2


async def test_a_slow_server_makes_reads_late_not_lost(own_server):
    write(own_server, {"u": records([5])})
    async with opened(own_server, timeout_s=0.05) as store:
        assert (await store.fetch(key("u"), LATE)).status == "hit"
        own_server.client.client_pause(120)
        began = time.monotonic()
        late = await store.fetch(key("u"), LATE)
        assert late.status == "timeout"
        assert 0.04 < time.monotonic() - began < 0.11
        await asyncio.sleep(0.15)
        assert (await store.fetch(key("u"), LATE)).status == "hit"
        assert store.state.up


async def test_a_deadline_before_the_timeout_counts(own_server):
    write(own_server, {"u": records([5])})
    async with opened(own_server, timeout_s=5.0) as store:
        own_server.client.client_pause(300)
        began = time.monotonic()
        soon = await store.fetch(key("u"), LATE, deadline=began + 0.05)
        past = await store.fetch(key("u"), LATE, deadline=began - 1)
        assert soon.status == past.status == "timeout"
        assert time.monotonic() - began < 0.2


async def test_a_server_that_hangs_soon_costs_nobody_his_timeout(own_server):
    write(own_server, {"u": records([5])})
    async with opened(own_server, timeout_s=0.03) as store:
        own_server.client.client_pause(1200)
        answers = []
        end = time.monotonic() + 0.6
        while time.monotonic() < end:
            began = time.monotonic()
            history = await store.fetch(key("u"), LATE)
            answers.append((history.status, time.monotonic() - began))
            await asyncio.sleep(0.002)
        assert answers[0][0] == "timeout"
        assert answers[-1][0] == "unavailable"
        assert sum(status == "timeout" for status, _ in answers) < 20
        assert answers[-1][1] < 0.01
        assert store.state.breaker_open
        await eventually(lambda: not store.state.breaker_open)
        assert (await store.fetch(key("u"), LATE)).status == "hit"


async def test_a_server_that_is_always_late_opens_the_breaker(own_server, monkeypatch):
    write(own_server, {"u": records([5])})
    async with opened(own_server, timeout_s=0.02) as store:
        replies = store._link.replies

        async def slow_replies(count: int) -> list[object]:
            await asyncio.sleep(0.03)
            return await replies(count)

        monkeypatch.setattr(store._link, "replies", slow_replies)
        statuses = []
        while not store.state.breaker_open:
            statuses.append((await store.fetch(key("u"), LATE)).status)
        assert set(statuses[:-1]) == {"timeout"}
        assert len(statuses) < 20
        assert store.state.up
        assert (await store.fetch(key("u"), LATE)).status == "unavailable"
        monkeypatch.undo()
        await eventually(lambda: not store.state.breaker_open)
        assert (await store.fetch(key("u"), LATE)).status == "hit"


async def test_a_killed_server_fails_what_waits_and_is_found_again(own_server):
    write(own_server, {"u": records([5])})
    # with a slow disk the server keeps what it wrote to itself for up to two seconds
    assert own_server.client.execute_command("WAITAOF", 1, 0, 5000)[0] == 1
    states = []
    async with opened(own_server, timeout_s=1.0, on_state=states.append) as store:
        own_server.client.client_pause(5000)
        waiting = [asyncio.ensure_future(store.fetch(key("u"), LATE)) for _ in range(20)]
        await asyncio.sleep(0.05)
        await asyncio.to_thread(own_server.kill)
        assert {(await read).status for read in waiting} == {"unavailable"}
        began = time.monotonic()
        gone = await store.fetch(key("u"), LATE)
        assert (gone.status, time.monotonic() - began < 0.02) == ("unavailable", True)
        assert not store.state.up
        await asyncio.to_thread(own_server.start)
        await eventually(lambda: store.state.ready)
        assert (await store.fetch(key("u"), LATE)).status == "hit"
    assert [up for up, _ in groupby(state.up for state in states)] == [True, False, True, False]


async def test_a_lost_connection_is_replaced_within_the_request(server):
    write(server, {"u": records([5])})
    async with opened(server) as store:
        for _ in range(5):
            server.client.client_kill_filter(_type="normal", skipme=True)
            assert (await store.fetch(key("u"), LATE)).status == "hit"


async def test_a_caller_who_leaves_disturbs_nobody(server):
    write(server, {f"u{i}": records([i + 1]) for i in range(30)})
    async with opened(server) as store:
        reads = [asyncio.ensure_future(store.fetch(key(f"u{i}"), LATE)) for i in range(30)]
        await asyncio.sleep(0)
        for read in reads[::3]:
            read.cancel()
        histories = await asyncio.gather(*reads, return_exceptions=True)
        assert (await store.fetch(key("u0"), LATE)).status == "hit"
    kept = [int(history.records["timestamp"][0]) for i, history in enumerate(histories) if i % 3]
    assert kept == [i + 1 for i in range(30) if i % 3]


async def test_an_empty_store_is_ready_and_a_later_load_is_found(server):
    async with opened(server) as store:
        assert store.state.ready
        assert (await store.fetch(key("u"), LATE)).status == "empty"
        write(server, {"u": records([5])})
        await eventually(lambda: store.state.layout, timeout_s=2.0)
        assert (await store.fetch(key("u"), LATE)).status == "hit"


async def test_a_store_of_other_layouts_only_is_a_problem_that_says_why(server):
    claim_layout(server.client, OTHER_ACTIONS)
    async with opened(server) as store:
        assert store.state.up
        assert not store.state.ready
        assert "order" in store.state.problem
        assert "load a log" in store.state.problem
        history = await store.fetch(key("u"), LATE)
        assert (history.status, history.detail) == ("unavailable", store.state.problem)


async def test_the_layout_of_ones_own_is_read_beside_others(server):
    assert claim_layout(server.client, OTHER_ACTIONS).number == 1
    write(server, {"u": records([5])})
    async with opened(server) as store:
        assert store.state.layout == 2
        assert (await store.fetch(key("u"), LATE)).status == "hit"


async def test_an_absent_server_is_waited_for_only_as_long_as_asked(tmp_path):
    store = HistoryStore(f"unix://{tmp_path}/none.sock", SCHEMA, history_length=5)
    store.start()
    state = await store.wait(0.1)
    assert not state.up
    assert "none.sock" in state.error
    assert (await store.fetch(key("u"), LATE)).status == "unavailable"
    await store.close()


async def test_closing_answers_what_waits(own_server):
    write(own_server, {"u": records([5])})
    async with opened(own_server, timeout_s=5.0) as store:
        own_server.client.client_pause(300)
        waiting = asyncio.ensure_future(store.fetch(key("u"), LATE))
        await asyncio.sleep(0.02)
        await store.close()
        assert (await waiting).status == "unavailable"


def test_what_is_no_url_is_refused_without_its_password():
    with pytest.raises(InputError, match=r"redis://:\*\*\*@host:port: not a Redis URL"):
        HistoryStore("redis://:secret@host:port", SCHEMA, history_length=5)


async def test_of_a_history_that_is_known_only_what_was_appended_is_read(server):
    everything = records(range(10, 510, 10))
    write(server, {"u": everything[:30]})
    async with opened(server) as store:
        first = await store.fetch(key("u"), LATE)
        same = await store.fetch(key("u"), LATE, known=first.mark)
        write(server, {"u": everything[:33]})
        grown = await store.fetch(key("u"), LATE, known=first.mark)
        again = await store.fetch(key("u"), LATE, known=grown.mark)
    assert first.held.tobytes() == everything[:30].tobytes()
    assert not first.follows
    assert [answer.follows for answer in (same, grown, again)] == [True] * 3
    assert [len(answer.records) for answer in (same, grown, again)] == [0, 3, 0]
    assert grown.records.tobytes() == everything[30:33].tobytes()


async def test_whatever_else_happened_to_a_known_history_the_whole_is_read(server):
    everything = records(range(10, 510, 10))
    changed = {
        "many": everything,
        "late": np.concatenate([everything[:10], records([105]), everything[10:30]]),
        "shorter": everything[5:30],
        "other": records(range(11, 311, 10)),
        "gone": everything[:0],
    }
    profiles = [{"user_id": user, "city": "Oslo", "income": 1.0} for user in changed]
    write(server, dict.fromkeys(changed, everything[:30]), profiles)
    async with opened(server) as store:
        for user, value in changed.items():
            known = (await store.fetch(key(user), LATE)).mark
            write(server, {user: value})
            answer = await store.fetch(key(user), LATE, known=known)
            assert not answer.follows, user
            assert answer.records.tobytes() == value[-10:].tobytes(), user
            assert answer.profile == {"city": "Oslo", "income": 1.0}, user


async def test_a_known_history_whose_new_records_are_out_of_order_is_read_whole_and_refused(server):
    everything = records(range(10, 310, 10))
    write(server, {"u": everything})
    async with opened(server) as store:
        known = (await store.fetch(key("u"), LATE)).mark
        write(server, {"u": np.concatenate([everything, records([5])])})
        answer = await store.fetch(key("u"), LATE, known=known)
    assert answer.status == "unavailable"
    assert "order of time" in answer.detail


class Torn:
    """Answers a read's commands one by one, from a value that another client may replace in between."""

    def __init__(self, value):
        self.value = value

    def answer(self, read, *, then=None):
        packed = read.commands(Layout(1))
        order = sorted([b"STRLEN", b"GETRANGE"], key=packed.index)
        start = int(packed.split(b"GETRANGE")[1].split(b"\r\n")[4])
        replies = []
        for command in order:
            replies.append(len(self.value) if command == b"STRLEN" else self.value[start:])
            if then is not None:
                self.value, then = then, None
        read.take([*replies, [None, None]][: read.expected])


async def test_a_write_between_the_two_commands_of_a_read_hides_nothing():
    backfilled = records(range(10, 410, 10))
    late = np.concatenate([backfilled[:5], records([55]), backfilled[5:]])
    plan = ReadPlan.of(SCHEMA, 10, 0)
    for before, between, after in (
        (backfilled, late, late),
        (backfilled[1:], backfilled, backfilled),
        (backfilled[:-1], backfilled, late),
        (backfilled[:-2], backfilled[:-1], np.concatenate([late[:3], late[4:]])),
    ):
        server = Torn(before.tobytes())
        first = Read(plan, 1, LATE, asyncio.get_running_loop().create_future())
        server.answer(first, then=between.tobytes())
        known = first.answer.result().mark
        held = first.answer.result().held
        server.value = after.tobytes()
        again = Read(plan, 1, LATE, asyncio.get_running_loop().create_future(), known)
        server.answer(again)
        if again.answer.done():
            found = np.concatenate([held, again.answer.result().records])
            assert found.tobytes() == after[-len(found) :].tobytes()


def test_a_mark_whose_end_is_older_than_its_length_would_hide_a_write():
    # the reason for the order of the commands
    before, after = records(range(10, 410, 10)), records(range(5, 410, 5))[:41]
    after[-40:] = before
    size = before.itemsize
    torn = Mark(after.nbytes, before[-32:].tobytes())
    assert torn.appended(after[-32:].tobytes(), after.nbytes, size) == b""
