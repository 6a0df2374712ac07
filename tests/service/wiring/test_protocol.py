"""Head and body leave together; nothing stays behind, nothing overtakes."""

import asyncio

from service.wiring.protocol import JoiningTransport


class Wire:
    """A transport that remembers what was written, and when it was closed."""

    def __init__(self):
        self.log = []

    def write(self, data):
        self.log.append(data)

    def close(self):
        self.log.append("closed")

    def abort(self):
        self.log.append("aborted")


def joining():
    wire = Wire()
    return wire, JoiningTransport(wire, asyncio.get_running_loop())


async def test_two_writes_in_a_row_are_one():
    wire, transport = joining()
    transport.write(b"head ")
    transport.write(b"body")
    assert wire.log == [b"head body"]
    await asyncio.sleep(0)
    assert wire.log == [b"head body"]


async def test_a_write_alone_leaves_in_the_next_turn():
    wire, transport = joining()
    transport.write(b"head")
    assert wire.log == []
    await asyncio.sleep(0)
    assert wire.log == [b"head"]


async def test_many_writes_keep_their_order():
    wire, transport = joining()
    for number in range(7):
        transport.write(b"%d" % number)
    await asyncio.sleep(0)
    assert b"".join(wire.log) == b"0123456"


async def test_closing_writes_first_and_aborting_does_not():
    wire, transport = joining()
    transport.write(b"head")
    transport.close()
    assert wire.log == [b"head", "closed"]
    wire, transport = joining()
    transport.write(b"head")
    transport.abort()
    await asyncio.sleep(0)
    assert wire.log == ["aborted"]
