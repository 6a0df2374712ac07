"""Histories that need no read, since the store tells what changes; on real servers."""

import asyncio
import contextlib
import logging
from contextlib import asynccontextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.keys import key
from contract.records import empty_records
from service.history import connection as connection_module
from service.history import current as current_module
from service.history.current import Current
from service.history.mark import Mark
from service.history.result import History
from service.history.writer import claim_layout
from service.layout import META, Layout
from tests.service.history.test_reader import LATE, OTHER_ACTIONS, SCHEMA, eventually, opened, records, write

NOTHING = empty_records(SCHEMA)
NAME = Layout(1).history(key("u"))
PROFILE = {"user_id": "u", "city": "Oslo", "income": 1.0}


def reads(server):
    """Return how many histories the server was asked for."""
    return server.client.info("commandstats").get("cmdstat_getrange", {"calls": 0})["calls"]


UNCHANGED = History(NOTHING, "hit", follows=True, current=True)


async def known_to(store, user="u"):
    """Return a mark that is current."""
    mark = (await store.fetch(key(user), LATE)).mark
    assert (await store.fetch(key(user), LATE, known=mark)).current
    return mark


async def answer_once(store, mark, condition, user="u"):
    """Ask again and again until the answer is as it should be."""
    async with asyncio.timeout(5):
        while True:
            answer = await store.fetch(key(user), LATE, known=mark)
            if condition(answer):
                return answer
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("confirm", [True, False])
async def test_what_has_not_changed_is_not_asked_for(server, confirm):
    write(server, {"u": records(range(10, 310, 10)), "other": records([10])}, [PROFILE])
    async with opened(server, confirm=confirm) as store:
        mark = await known_to(store)
        asked = reads(server)
        write(server, {"other": records([10, 20])})
        answers = [await store.fetch(key("u"), LATE, known=mark) for _ in range(3)]
        assert reads(server) == asked
        equal = Mark(mark.total_bytes, bytes(mark.end))
        assert (await store.fetch(key("u"), LATE, known=equal)).current
    for answer in answers:
        assert (answer.status, answer.follows, len(answer.records)) == ("hit", True, 0)
        assert answer.profile == {"city": "Oslo", "income": 1.0}


async def test_other_marks_and_none_are_asked_for(server):
    everything = records(range(10, 310, 10))
    write(server, {"u": everything})
    async with opened(server) as store:
        mark = await known_to(store)
        older = Mark(mark.total_bytes - everything.itemsize, everything[-33:-1].tobytes())
        asked = reads(server)
        answer = await store.fetch(key("u"), LATE, known=older)
        assert (answer.current, answer.follows) == (False, True)
        assert answer.records.tobytes() == everything[-1:].tobytes()
        whole = await store.fetch(key("u"), LATE)
        assert (whole.current, len(whole.records)) == (False, 10)
        assert reads(server) == asked + 2


@pytest.mark.parametrize(
    "change",
    ["appended", "replaced", "deleted", "flushed", "profile", "profile gone", "renamed over"],
)
@pytest.mark.parametrize("confirm", [True, False])
async def test_whatever_happens_to_a_user_is_noticed(server, change, confirm):
    before, after = records(range(10, 310, 10)), records(range(10, 320, 10))
    write(server, {"u": before}, [PROFILE])
    client = server.client
    claim = claim_layout(client, SCHEMA)
    profile_name = claim.profile(key("u"))
    changes = {
        "appended": lambda: client.append(NAME, after[-1:].tobytes()),
        "replaced": lambda: client.set(NAME, records(range(11, 311, 10)).tobytes()),
        "deleted": lambda: client.delete(NAME),
        "flushed": client.flushall,
        "profile": lambda: client.hset(profile_name, "city", "Bergen"),
        "profile gone": lambda: client.delete(profile_name),
        "renamed over": lambda: (client.set("x", after.tobytes()), client.rename("x", NAME)),
    }
    async with opened(server, confirm=confirm) as store:
        mark = await known_to(store)
        changes[change]()
        if confirm:
            answer = await store.fetch(key("u"), LATE, known=mark)
            assert not answer.current
        else:
            answer = await answer_once(store, mark, lambda answer: not answer.current)
        fresh = await store.fetch(key("u"), LATE)
        assert answer.profile == fresh.profile
        if answer.follows:
            held = np.concatenate([before, answer.records])
            assert held[-10:].tobytes() == fresh.records.tobytes()
        else:
            assert answer.records.tobytes() == fresh.records.tobytes()
            assert answer.status == fresh.status
        if fresh.mark is not None:
            assert (await store.fetch(key("u"), LATE, known=fresh.mark)).current


@pytest.mark.parametrize("confirm", [True, False])
async def test_what_was_written_before_a_request_counts_in_it(server, confirm):
    write(server, {"u": records([1])})
    client = server.client
    async with opened(server, history_length=1000, confirm=confirm) as store:
        mark, held = (await store.fetch(key("u"), LATE)).mark, 1
        for second in range(2, 200):
            await store.fetch(key("u"), LATE, known=mark)
            client.append(NAME, records([second]).tobytes())  # the loop is held meanwhile, and hears nothing
            if not confirm:
                client.ping()  # after its reply what changed before it has been told
                await asyncio.sleep(0.001)
            answer = await store.fetch(key("u"), LATE, known=mark)
            assert not answer.current
            held = held + len(answer.records) if answer.follows else len(answer.records)
            assert held == second
            mark = answer.mark


async def test_an_old_mark_is_good_while_nothing_has_changed_since_the_whole_was_read(server):
    write(server, {"u": records(range(10, 510, 10))})
    async with opened(server) as store:
        mark = await known_to(store)
        asked = reads(server)
        assert (await store.fetch(key("u"), LATE, known=mark, whole=True)).current
        assert reads(server) == asked
        # older records replaced by as many others, which the end does not show
        changed = records(range(10, 510, 10))
        changed["item_id"][:5] += 100
        write(server, {"u": changed})
        followed = await store.fetch(key("u"), LATE, known=mark)
        assert (followed.follows, followed.current, len(followed.records)) == (True, False, 0)
        assert (await store.fetch(key("u"), LATE, known=mark)).current
        whole = await store.fetch(key("u"), LATE, known=mark, whole=True)
        assert (whole.follows, whole.held.tobytes()) == (False, changed.tobytes())
        assert (await store.fetch(key("u"), LATE, known=whole.mark, whole=True)).current


async def test_another_reader_of_the_same_does_not_vouch_for_what_was_read_before(server):
    before, changed = records(range(10, 510, 10)), records(range(10, 510, 10))
    changed["item_id"][:5] += 100
    write(server, {"u": before})
    async with opened(server, history_length=50) as store:
        first = await store.fetch(key("u"), LATE)
        write(server, {"u": changed})
        second = await store.fetch(key("u"), LATE)
        assert second.mark == first.mark
        again = await store.fetch(key("u"), LATE, known=first.mark, whole=True)
        assert not again.follows
        assert again.held.tobytes() == changed.tobytes()


async def test_a_key_whose_time_runs_out_is_told_when_the_server_deletes_it(server):
    write(server, {"u": records(range(10, 310, 10))}, [PROFILE])
    async with opened(server) as store:
        server.client.pexpire(NAME, 1000)
        mark = (await store.fetch(key("u"), LATE)).mark
        assert (await store.fetch(key("u"), LATE, known=mark)).current
        answer = await answer_once(store, mark, lambda answer: not answer.current)
        assert answer.status == "empty"


async def test_a_refused_word_confirms_nothing(own_server):
    write(own_server, {"u": records(range(10, 310, 10))})
    async with opened(own_server) as store:
        mark = await known_to(store)
        own_server.client.execute_command("ACL", "SETUSER", "default", "-ping")
        answer = await store.fetch(key("u"), LATE, known=mark)
        assert (answer.status, answer.follows, answer.current) == ("hit", True, False)


@asynccontextmanager
async def front(server, behaviour, *, times=1000):
    """A proxy that does something else with the first so many HELLOs than its server would."""
    greetings = list(range(times))
    path = server.url.removeprefix("unix://").partition("?")[0]

    async def pump(reader, writer, *, inward=False):
        with contextlib.closing(writer):
            while data := await reader.read(1 << 16):
                if inward and b"HELLO" in data and greetings:
                    greetings.pop()
                    if behaviour == "closes":
                        return
                    if behaviour == "says OK":
                        theirs.write(b"+OK\r\n")
                    continue
                writer.write(data)

    async def serve(reader, writer):
        nonlocal theirs
        theirs = writer
        ours, ourselves = await asyncio.open_unix_connection(path)
        await asyncio.gather(pump(reader, ourselves, inward=True), pump(ours, writer))

    theirs = None
    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}/0"
    finally:
        listener.close()


@pytest.mark.parametrize("behaviour", ["closes", "hangs", "says OK"])
async def test_a_front_that_does_not_know_the_greeting_is_used_without(own_server, behaviour, caplog):
    write(own_server, {"u": records(range(10, 310, 10))})
    async with front(own_server, behaviour) as url:
        own_server.url, direct = url, own_server.url
        with caplog.at_level(logging.WARNING, "service.history"):
            async with opened(own_server, connect_timeout_s=0.3) as store:
                await eventually(lambda: store.state.up)
                mark = (await store.fetch(key("u"), LATE)).mark
                own_server.client.append(NAME, records([500]).tobytes())
                answer = await store.fetch(key("u"), LATE, known=mark)
        own_server.url = direct
    assert (answer.follows, answer.current, len(answer.records)) == (True, False, 1)
    assert "every request asks it" in caplog.text


@pytest.mark.parametrize("behaviour", ["closes", "hangs", "says OK"])
async def test_what_failed_once_is_tried_again(own_server, behaviour, monkeypatch, caplog):
    monkeypatch.setattr(connection_module, "TRACK_AGAIN_S", (0.1, 1.0))
    write(own_server, {"u": records(range(10, 310, 10))})
    async with front(own_server, behaviour, times=1) as url:
        own_server.url, direct = url, own_server.url
        with caplog.at_level(logging.WARNING, "service.history"):
            async with opened(own_server, connect_timeout_s=0.5) as store:
                await eventually(lambda: store.state.up)
                mark = (await store.fetch(key("u"), LATE)).mark
                answer = await answer_once(store, mark, lambda answer: answer.current)
        own_server.url = direct
    assert (answer.status, answer.follows) == ("hit", True)
    assert caplog.text.count("every request asks it") == 1


async def test_reads_of_all_kinds_share_a_round_trip(server):
    everything = records(range(10, 310, 10))
    users = [f"u{index}" for index in range(8)]
    write(server, dict.fromkeys(users, everything))
    async with opened(server, history_length=20) as store:
        marks = {user: (await store.fetch(key(user), LATE)).mark for user in users}
        for user in users[::2]:
            write(server, {user: records(range(10, 320, 10))})
        answers = await asyncio.gather(
            *(store.fetch(key(user), LATE, known=marks[user]) for user in users),
            *(store.fetch(key(user), LATE) for user in users),
        )
    follows, whole = answers[:8], answers[8:]
    assert [(answer.current, len(answer.records)) for answer in follows] == [(False, 1), (True, 0)] * 4
    assert [int(answer.records["timestamp"][-1]) for answer in whole] == [310, 300] * 4


@pytest.mark.parametrize("confirm", [True, False])
async def test_without_a_connection_nothing_is_current(own_server, confirm):
    write(own_server, {"u": records(range(10, 310, 10))})
    async with opened(own_server, confirm=confirm) as store:
        mark = await known_to(store)
        own_server.client.client_kill_filter(_type="normal", skipme=True)
        await eventually(lambda: store.state.up)
        await answer_once(store, mark, lambda answer: not answer.current)
        await eventually(lambda: store.state.up)
        await known_to(store)
        own_server.stop()
        answer = await answer_once(store, mark, lambda answer: answer.status != "hit")
    assert answer.status == "unavailable"


async def test_a_server_that_hangs_is_not_trusted_for_long(own_server):
    write(own_server, {"u": records(range(10, 310, 10))})
    async with opened(own_server, timeout_s=0.05, confirm=False) as store:
        mark = await known_to(store)
        own_server.client.client_pause(4000)
        began = asyncio.get_running_loop().time()
        await answer_once(store, mark, lambda answer: answer.status != "hit")
        assert asyncio.get_running_loop().time() - began < 2.5  # one look a second, and a stall of .2 s


@pytest.mark.parametrize("rules", [["-client"], ["-client|tracking"]])
async def test_a_server_that_may_not_tell_is_asked_every_time(own_server, rules, caplog):
    write(own_server, {"u": records(range(10, 310, 10))}, [PROFILE])
    own_server.client.execute_command("ACL", "SETUSER", "default", *rules)
    with caplog.at_level(logging.WARNING, "service.history"):
        async with opened(own_server) as store:
            mark = (await store.fetch(key("u"), LATE)).mark
            again = await store.fetch(key("u"), LATE, known=mark)
    assert (again.status, again.follows, again.current) == ("hit", True, False)
    assert "every request asks it" in caplog.text


async def test_without_tracking_every_request_asks(server):
    write(server, {"u": records(range(10, 310, 10))})
    async with opened(server, tracking=False) as store:
        mark = (await store.fetch(key("u"), LATE)).mark
        assert not (await store.fetch(key("u"), LATE, known=mark)).current


async def test_a_server_that_remembers_few_keys_says_so(own_server):
    own_server.client.config_set("tracking-table-max-keys", 10)
    users = [f"u{index}" for index in range(50)]
    write(own_server, {user: records(range(10, 310, 10)) for user in users})
    async with opened(own_server) as store:
        marks = {user: (await store.fetch(key(user), LATE)).mark for user in users}
        await asyncio.sleep(0.3)
        for user in users:
            own_server.client.append(Layout(1).history(key(user)), records([500]).tobytes())
        await asyncio.to_thread(own_server.client.ping)
        await asyncio.sleep(0.05)
        for user in users:
            answer = await store.fetch(key(user), LATE, known=marks[user])
            assert (answer.follows, len(answer.records)) == (True, 1), user


async def test_another_layout_ends_what_was_current(server):
    write(server, {"u": records(range(10, 310, 10))})
    async with opened(server) as store:
        mark = await known_to(store)
        server.client.delete(META)
        claim_layout(server.client, OTHER_ACTIONS)
        await eventually(lambda: store.state.problem)
        answer = await store.fetch(key("u"), LATE, known=mark)
    assert answer.status == "unavailable"


async def test_a_read_in_two_round_trips_is_asked_for_once_more(server):
    # the profile may have changed between the two
    before = records(range(10, 310, 10))
    write(server, {"u": before}, [PROFILE])
    async with opened(server, tracking=True) as store:
        other = Mark(before.nbytes, records(range(11, 331, 10)).tobytes())
        whole = await store.fetch(key("u"), LATE, known=other)
        assert (whole.follows, whole.status) == (False, "hit")
        assert not (await store.fetch(key("u"), LATE, known=whole.mark)).current
        assert (await store.fetch(key("u"), LATE, known=whole.mark)).current


# ---------------------------------------------------------------- the bookkeeping alone


def name_of(user):
    return Layout(1).history(user).encode()


class Conversation:
    """A server that tells, and one round trip at a time; what has arrived is parsed at once, pushes before replies."""

    def __init__(self):
        self.book = Current()
        self.value = dict.fromkeys((1, 2, 3), 0)
        self.held = []
        self._lose()

    def _lose(self):
        self._tracked, self._arriving, self._trip, self._served = set(), [], None, False

    def write(self, user):
        self.value[user] += 1
        if user in self._tracked:
            self._tracked.discard(user)
            self._arriving.append(("push", user, 0))

    def send(self, user):
        if self._trip is None:
            self.book.begin()
            self._trip, self._served = user, False

    def serve(self, _user):
        if self._trip is not None and not self._served:
            self._served = True
            self._tracked.add(self._trip)
            self._arriving.append(("reply", self._trip, self.value[self._trip]))

    def lost(self, _user):
        self.book.clear()
        self._lose()

    def note(self, user, seen):
        mark = Mark(seen, b"")
        self.held.append(mark)  # as encoders do
        self.book.note(user, mark, UNCHANGED, whole=True)

    def arrive(self, _user):
        self.book.changed([name_of(user) for kind, user, _ in self._arriving if kind == "push"])
        for kind, user, seen in self._arriving:
            if kind == "reply":
                self.note(user, seen)
                self._trip = None
                self.book.end()
        self._arriving = []
        for user, newest in self.value.items():
            for seen in range(newest):
                assert self.book.answer(user, Mark(seen, b""), whole=False) is None


STEPS = st.tuples(st.sampled_from(["write", "send", "serve", "arrive", "lost"]), st.integers(1, 3))


@given(steps=st.lists(STEPS, max_size=40))
def test_nothing_that_has_changed_is_taken_for_current(steps):
    conversation = Conversation()
    for step, user in steps:
        getattr(conversation, step)(user)


def test_all_keys_may_change_at_once_and_other_names_are_nobodys():
    book, mark = Current(), Mark(1, b"")

    def note():
        book.note(1, mark, UNCHANGED, whole=True)

    book.begin()
    note()
    book.changed([b"ls:meta", b"ls:1:ads:00", b"x", name_of(2)])
    assert book.answer(1, mark, whole=True) is UNCHANGED
    book.changed(None)
    assert len(book) == 0
    note()  # the trip began before
    assert len(book) == 0
    book.end()
    book.begin()
    note()
    assert len(book) == 1
    book.changed([Layout(1).profile(1).encode()])
    note()
    assert len(book) == 0


def test_users_who_were_not_asked_for_longest_are_forgotten_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(current_module, "MOST", 3)
    book, marks = Current(), {user: Mark(user, b"") for user in range(1, 6)}
    book.begin()
    for user, mark in marks.items():
        book.note(user, mark, UNCHANGED, whole=True)
        book.answer(1, marks[1], whole=True)
    assert [user for user, mark in marks.items() if book.answer(user, mark, whole=False)] == [1, 4, 5]


def test_an_entry_ends_with_the_history_that_its_mark_stands_for():
    book, mark = Current(), Mark(1, b"")
    book.begin()
    book.note(1, mark, UNCHANGED, whole=True)
    book.note(2, Mark(1, b""), UNCHANGED, whole=True)  # nobody kept it
    assert len(book) == 1
    newer = Mark(2, b"")
    book.note(1, newer, UNCHANGED, whole=True)
    del mark
    assert book.answer(1, newer, whole=True) is UNCHANGED


def test_an_equal_mark_of_another_read_says_nothing_about_what_is_older():
    book, mark, equal = Current(), Mark(1, b"end"), Mark(1, b"end")
    book.begin()
    book.note(1, mark, UNCHANGED, whole=True)
    assert book.answer(1, equal, whole=False) is UNCHANGED
    assert book.answer(1, equal, whole=True) is None
    book.note(1, equal, UNCHANGED, whole=False)
    assert book.answer(1, equal, whole=False) is UNCHANGED
    assert book.answer(1, equal, whole=True) is None
