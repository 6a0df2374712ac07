"""Services that were given one folder for their slots, and listen on one port: on two addresses, or in containers."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.serving import free_port
from tests.support.slots import VERSIONS, answered_by, change, open_files
from tests.support.workers import until, workers_of

ADDRESSES = ("127.0.0.1", "127.0.0.2")


@pytest.fixture
def at(serving):
    """Starts a service at an address, and waits until it is ready."""
    with contextlib.ExitStack() as stack:
        port = str(free_port())

        def start(address, *arguments, **options):
            started = stack.enter_context(serving("--host", address, "--port", port, *arguments, **options))
            started.host, started.port = address, int(port)
            return started.wait()

        yield start


def test_what_one_changes_the_other_follows(at):
    first, second = (at(address) for address in ADDRESSES)
    for changed, name in ((first, "b"), (second, "c"), (first, "a")):
        # a service that is about to follow the other one says so: ask again
        until(lambda changed=changed, name=name: change(changed, "champion", name).status == 200)
        for one in (first, second):
            until(lambda one=one, name=name: answered_by(one) == VERSIONS[name])


def test_two_that_change_at_the_same_time_end_up_alike(at):
    first, second = at(ADDRESSES[0], "--workers", "2"), at(ADDRESSES[1])
    held_up = workers_of(first)[0]
    held_up.suspend()
    with ThreadPoolExecutor() as pool:
        changing = pool.submit(change, first, "champion", "b")
        until(lambda: "lock" in open_files(first))
        until(lambda: any(name.endswith(".json.lock") for name in open_files(first)))
        answer = change(second, "champion", "c")
        assert (answer.status, answer.json["type"]) == (409, "urn:longsight:slot-conflict")
        assert "another service" in answer.json["detail"]
        held_up.resume()
        assert changing.result(40).status == 200
    until(lambda: answered_by(second) == VERSIONS["b"])
    assert {answered_by(first) for _ in range(10)} == {VERSIONS["b"]}
    assert change(second, "champion", "c").status == 200
    until(lambda: {answered_by(first) for _ in range(10)} == {VERSIONS["c"]})


def test_services_with_other_bundles_read_nothing_of_each_other_and_say_what_they_replace(at, root):
    first, second = at(ADDRESSES[0]), at(ADDRESSES[1], bundle="c")
    assert change(first, "challenger", "b", share=1).status == 200
    assert answered_by(first) == VERSIONS["b"]
    assert answered_by(second) == VERSIONS["c"]
    assert change(second, "champion", "b").status == 200
    assert f"what was kept for {root / 'a'} is replaced" in second.output()
    assert answered_by(first) == VERSIONS["b"]
    assert answered_by(first, model="champion") == VERSIONS["a"]
