"""What one history costs: L = 1000 records of 56 bytes from the embedded Valkey, over its Unix socket.

Three ways of asking, all through the `HistoryStore` that the service uses, under uvloop: one read at a time (p50, p99),
64 at a time (time per user, whatever shares a round trip), and one at a time so far in the past that the window has to
be extended (users of 8,000 records, requests at half of them). Beside them the bare `GETRANGE` of redis-py's client,
one at a time; and users whose history is known and has not changed: asked for (length and end), confirmed (one word of
the store for all that wait), trusted.

Run: `python benchmarks/history_read.py [--reads N] [--json]`; makes its own store in a temporary folder.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import redis
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.bars import bar, finish
from contract.records import Records, empty_records
from contract.schema import Schema
from service.history.embedded import embedded_server
from service.history.reader import HistoryStore
from service.history.writer import StoreWriter, claim_layout

LENGTH: Final = 1000
LONG: Final = 8000
USERS: Final = 400
AT_A_TIME: Final = 64
WARM_UP: Final = 200
P50_LIMIT_MS: Final = 0.25
KNOWN: Final = {"asked": (False, True), "confirmed": (True, True), "trusted": (True, False)}
"""Ways to learn that nothing has changed: whether the server tracks, and confirms."""
SCHEMA: Final = Schema.from_json(
    {
        "vocabularies": {"id": {"kind": "hashed", "rows": 8}},
        "behavior": [{"name": f"field_{i}", "type": "categorical", "vocabulary": "id"} for i in range(6)],
        "ad": [{"name": "ad_id", "type": "categorical", "vocabulary": "id", "matches": "field_0"}],
        "user": [{"name": "age", "type": "categorical", "vocabulary": "id"}],
    }
)


def history(rng: np.random.Generator, length: int) -> Records:
    """Return a user's records, one every 100 seconds from second 0 on."""
    records = empty_records(SCHEMA, length)
    for field in SCHEMA.behavior:
        records[field.name] = rng.integers(1, 2**63, length)
    records["timestamp"] = np.arange(length) * 100
    records["action"] = 1
    return records


def write(url: str) -> int:
    """Fill the store: users 1..USERS, the second half with long histories; returns the layout's number."""
    rng = np.random.default_rng(0)
    with redis.Redis.from_url(url) as client:
        layout = claim_layout(client, SCHEMA)
        writer = StoreWriter(client, SCHEMA, layout)
        lengths = [2 * LENGTH if user <= USERS // 2 else LONG for user in range(1, USERS + 1)]
        runs = ((user, history(rng, length)) for user, length in enumerate(lengths, start=1))
        writer.histories(runs, advance=lambda _count: None)
        profiles = [(user, {"user_id": str(user), "age": "35-44"}) for user in range(1, USERS + 1)]
        writer.profiles(profiles, advance=lambda _count: None)
    return layout.number


async def one_at_a_time(read: Callable[[int], Awaitable[object]], reads: int) -> dict[str, float]:
    """Return p50 and p99 of single reads, in milliseconds."""
    seconds = []
    for i in range(WARM_UP + reads):
        began = time.perf_counter()
        await read(i)
        seconds.append(time.perf_counter() - began)
    p50, p99 = np.percentile(seconds[WARM_UP:], [50, 99]).tolist()
    return {"p50_ms": round(p50 * 1e3, 4), "p99_ms": round(p99 * 1e3, 4)}


async def together(read: Callable[[int], Awaitable[object]], reads: int) -> dict[str, float]:
    """Return what a read costs when as many callers as `AT_A_TIME` always want one."""

    async def caller(first: int) -> None:
        for i in range(each):
            await read(first + i)

    each = max(1, reads // AT_A_TIME)
    began = time.perf_counter()
    await asyncio.gather(*[caller(7 * i) for i in range(AT_A_TIME)])
    seconds = time.perf_counter() - began
    us_per_user = seconds / (each * AT_A_TIME) * 1e6
    return {
        "at_a_time": AT_A_TIME,
        "us_per_user": round(us_per_user, 1),
        "users_per_s": round(1e6 / us_per_user),
    }


async def measure(url: str, layout: int, reads: int) -> dict[str, Any]:
    """Return the tables of this benchmark."""
    store = HistoryStore(url, SCHEMA, history_length=LENGTH, timeout_s=1.0)
    store.start()
    await store.wait(5)
    size = empty_records(SCHEMA, 1).nbytes

    async def recent(i: int) -> None:
        found = await store.fetch(i % (USERS // 2) + 1, 2**31)
        assert len(found.records) == LENGTH
        assert not found.extended

    async def past(i: int) -> None:
        found = await store.fetch(USERS // 2 + i % (USERS // 2) + 1, LONG * 50)
        assert len(found.records) == LENGTH
        assert found.extended

    client = redis.asyncio.Redis.from_url(url)

    async def bare(i: int) -> None:
        name = f"ls:{layout}:{{{i % (USERS // 2) + 1:016x}}}:h"
        assert len(await client.getrange(name, -LENGTH * size, -1)) == LENGTH * size

    tables: dict[str, Any] = {
        "one": await one_at_a_time(recent, reads),
        "bare_getrange": await one_at_a_time(bare, reads),
        "past": await one_at_a_time(past, reads // 4),
    }
    tables["together"] = await together(recent, reads)
    await client.aclose()
    await store.close()
    for name in KNOWN:
        tables |= await measure_known(url, name, reads)
    return tables


async def measure_known(url: str, name: str, reads: int) -> dict[str, Any]:
    """Return the tables of users who are known and have not changed."""
    tracking, confirm = KNOWN[name]
    store = HistoryStore(
        url, SCHEMA, history_length=LENGTH, timeout_s=1.0, tracking=tracking, confirm=confirm
    )
    store.start()
    await store.wait(5)
    marks = [(await store.fetch(i + 1, 2**31)).mark for i in range(USERS // 2)]

    async def known(i: int) -> None:
        user = i % len(marks)
        found = await store.fetch(user + 1, 2**31, known=marks[user])
        assert found.follows
        assert not len(found.records)

    tables = {name: await one_at_a_time(known, reads), f"{name}_together": await together(known, reads)}
    await store.close()
    return tables


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reads", type=int, default=4000, help="single reads per table")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, embedded_server(Path(folder)) as url:
        tables = uvloop.run(measure(url, write(url), arguments.reads))
    for name, table in tables.items():
        print(f"{name:14}", "  ".join(f"{key} {value}" for key, value in table.items()))
    bars = [bar("one read of 1,000 records, p50 in ms", tables["one"]["p50_ms"], "<=", P50_LIMIT_MS)]
    finish(tables, bars, as_json=arguments.json)


if __name__ == "__main__":
    main()
