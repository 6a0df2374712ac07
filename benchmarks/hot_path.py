"""Where the processor goes on one request: microseconds of each step, alone and behind a run of the graph.

The steps of the service's hot path are called in one process on the serving benchmark's bundle (two behaviour fields,
d = 64, TIN, L = 1000, N = 100) and store, each on its own. "Alone" a step finds its code and data in the caches;
"in place" a run of the graph lies between any two rounds, as in the service, and has emptied them. What is left of the
CPU time per request that `serving.py --only closed` shows is HTTP, the event loop, threads and system calls.

Run: `python benchmarks/hot_path.py [--json]`; the first run makes the bundle and the store (5 minutes).
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.bars import bar, finish
from benchmarks.support.score_traffic import zipf_requests
from benchmarks.support.serving_stand import LAST, Stand, stand
from contract.bundle import Bundle
from contract.keys import key
from service.api.body import BodyReader
from service.api.requests import Moment, request_of
from service.catalog import Catalogue
from service.history.reader import HistoryStore
from service.history.result import History
from service.runtime.graph import Graph
from service.scoring.encoding import RequestEncoder
from service.scoring.history import HistoryEncoder
from service.scoring.scorer import probabilities

FOLDER: Final = Path(".longsight/serving")
ROUNDS: Final = 1500
REQUESTS: Final = 1000
MOMENT: Final = Moment(now_s=LAST + 3600.0, arrived_s=0.0)
LOOKUP: Final = ("candidates", "history")

Step = Callable[[int], object]


class Steps:
    """The steps of the hot path on recorded requests; each takes the number of one.

    Args:
        bundle: of the model.
        bodies: JSON bodies.
        histories: of their users.
        catalogue: filled.

    """

    def __init__(
        self, bundle: Bundle, bodies: list[bytes], histories: list[History], catalogue: Catalogue
    ) -> None:
        encoder = bundle.encoder()
        self.graph = Graph(bundle.graph_path)
        reader = BodyReader(bundle.schema, max_candidates=5000)
        encode = RequestEncoder(encoder, catalogue)
        uncached, keeping = self._history_encoder(bundle, 0), self._history_encoder(bundle, 1 << 40)
        read = [reader.read_json(raw) for raw in bodies]
        asked = [request_of(body, MOMENT, default_deadline_ms=0.0) for body in read]
        when = int(MOMENT.now_s)
        users = [key(one.user_id) for one in asked]
        first = [keeping.encode(users[i], when, history, None) for i, history in enumerate(histories)]
        again = [
            replace(history, records=history.records[:0], follows=True, held=None) for history in histories
        ]
        tensors = [self._inputs(encode.candidates(one)[0] | first[i].tensors) for i, one in enumerate(asked)]
        logits = [self.graph.run(inputs)[0] for inputs in tensors]
        scores = [probabilities(logit_N) for logit_N in logits]
        self.by_name: dict[str, Step] = {
            "read the body": lambda i: reader.read_json(bodies[i]),
            "request": lambda i: request_of(read[i], MOMENT, default_deadline_ms=0.0),
            "candidates": lambda i: encode.candidates(asked[i]),
            "history": lambda i: uncached.encode(users[i], when, histories[i], None),
            "history, kept": lambda i: keeping.encode(users[i], when, again[i], keeping.find(users[i], when)),
            "probabilities": lambda i: probabilities(logits[i]),
            "write the answer": lambda i: orjson.dumps(
                {"request_id": "r", "scores": scores[i]}, option=orjson.OPT_SERIALIZE_NUMPY
            ),
        }
        self.run: Step = lambda i: self.graph.run(tensors[i])

    def _history_encoder(self, bundle: Bundle, cache_bytes: int) -> HistoryEncoder:
        return HistoryEncoder(
            bundle.encoder(),
            inputs=self.graph.inputs,
            lag_s=bundle.manifest.history_lag_s,
            cache_bytes=cache_bytes,
            clock=lambda: 0.0,  # what is kept stays fresh however long this takes
        )

    def _inputs(self, every: Mapping[str, Any]) -> dict[str, Any]:
        return {name: every[name] for name in self.graph.inputs}


async def measured(on: Stand) -> dict[str, Any]:
    """Return microseconds by step: medians of the time that this thread had the processor."""
    bundle = Bundle.open(on.bundle("tin"))
    requests = zipf_requests(on.sizes.users, count=REQUESTS)
    store = HistoryStore(
        on.redis, bundle.schema, history_length=bundle.manifest.history_length, timeout_s=5.0
    )
    catalogue = Catalogue(on.redis, bundle.encoder(), connect_timeout_s=5.0)
    store.start()
    catalogue.start()
    await store.wait(10.0)
    await catalogue.wait(30.0)
    when = int(MOMENT.now_s)
    histories = [await store.fetch(key(asked.user_id), when) for asked in requests]
    steps = Steps(bundle, [asked.json(timestamp=when) for asked in requests], histories, catalogue)
    alone = timed(steps.by_name, between=lambda _index: None)
    in_place = timed(steps.by_name, between=steps.run)
    began_s = time.thread_time()
    for asked in requests:
        await store.fetch(key(asked.user_id), when)
    one_read_us = (time.thread_time() - began_s) / len(requests) * 1e6
    await store.close()
    await catalogue.close()
    return {
        "alone_us": alone,
        "in_place_us": in_place,
        "graph_us": timed({"graph": steps.run}, between=lambda _index: None)["graph"],
        "read_one_history_us": one_read_us,
    }


def timed(steps: Mapping[str, Step], *, between: Step) -> dict[str, float]:
    """Return the median microseconds of each step; `between` runs before each round and is not counted."""
    taken = {name: np.empty(ROUNDS) for name in steps}
    for round_ in range(-20, ROUNDS):
        index = round_ % REQUESTS
        between(index)
        for name, step in steps.items():
            began_ns = time.thread_time_ns()
            step(index)
            if round_ >= 0:
                taken[name][round_] = time.thread_time_ns() - began_ns
    return {name: float(np.median(values)) / 1e3 for name, values in taken.items()}


def main() -> None:
    """Measure, print a table, and with --json one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="log, bundle and store are kept here")
    parser.add_argument("--quick", action="store_true", help="a small log: the figures mean little")
    parser.add_argument("--json", action="store_true", help="end stdout with one JSON object")
    arguments = parser.parse_args()
    with stand(arguments.folder, quick=arguments.quick) as on:
        found = asyncio.run(measured(on))
    print(f"{'step':18} {'alone':>8} {'in place':>9}  us")
    for name, alone_us in found["alone_us"].items():
        print(f"{name:18} {alone_us:8.1f} {found['in_place_us'][name]:9.1f}")
    print(f"{'graph':18} {found['graph_us']:8.1f}")
    print(f"{'one history read':18} {found['read_one_history_us']:8.1f}  alone, client's side")
    lookup_us = sum(found["in_place_us"][name] for name in LOOKUP)
    limit = bar("lookup over graph, in place", lookup_us / found["graph_us"], "<=", 1.0)
    finish({"benchmark": "hot_path", **found}, [limit], as_json=arguments.json)


if __name__ == "__main__":
    main()
