"""What peers serve: our encoder, our reading of histories, our catalogue and our graph, behind one blocking call.

Runs in the processes of mosec and BentoML, in their own environment. The read is as cheap as Python allows: packed
commands over one socket, replies parsed by hiredis; many users are read in one round trip. Time is now, nothing is
validated, counted or logged: less than what the service does for a request.
"""

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import hiredis
import numpy as np
import redis
from numpy.typing import NDArray

from contract.bundle import Bundle
from contract.encoder import Tensors
from contract.keys import key
from contract.records import Records, record_dtype
from service.catalog.table import AdTable
from service.history.connection import pack
from service.history.window import Window
from service.layout import AD_SHARDS, EXTRA_RECORDS, META, Layout
from service.runtime.graph import Graph
from service.scoring.scorer import probabilities

BUNDLE: Final = "LONGSIGHT_PEER_BUNDLE"
REDIS: Final = "LONGSIGHT_PEER_REDIS"


class PeerScorer:
    """Scores requests of users and ads, one after another or several in one run of the graph."""

    def __init__(self, bundle: Bundle, url: str) -> None:
        self._encoder = bundle.encoder()
        self._graph = Graph(bundle.graph_path)
        self._length = bundle.manifest.history_length
        self._dtype = record_dtype(bundle.schema)
        with redis.Redis.from_url(url, protocol=2) as client:
            meta: Any = client.hgetall(META)
            layout = Layout.find(meta, bundle.schema)
            assert layout is not None, "a store without the bundle's log"
            self._layout = layout
            self._ads = AdTable(self._encoder)
            for shard in range(AD_SHARDS):
                stored: Any = client.hgetall(layout.shard(shard))
                self._ads.put([(int(ad, 16), packed) for ad, packed in stored.items()])
        self._socket = _connect(url)
        self._replies = hiredis.Reader()

    @classmethod
    def from_environment(cls) -> Self:
        """Open the bundle and the store that the environment names."""
        return cls(Bundle.open(Path(os.environ[BUNDLE])), os.environ[REDIS])

    def score(self, user_id: str, candidates: Sequence[str]) -> NDArray[np.float64]:
        """Return the probabilities `[N]` of one user's candidates."""
        now = int(time.time())
        tensors = self._encoder.history(self._histories([user_id], now), [now])
        ads = self._ads.columns_for(candidates).tensors
        inputs = tensors | {name: column_N[None] for name, column_N in ads.items()}
        return probabilities(self._run(inputs)[0])

    def score_many(self, asked: Sequence[tuple[str, Sequence[str]]]) -> list[NDArray[np.float64]]:
        """Return the probabilities of several requests: one read, one run; fewer candidates are padded."""
        now = int(time.time())
        inputs = self._encoder.history(self._histories([user for user, _ in asked], now), [now] * len(asked))
        columns = [self._ads.columns_for(candidates).tensors for _, candidates in asked]
        most = max(len(candidates) for _, candidates in asked)
        for name, first in columns[0].items():
            inputs[name] = np.zeros((len(asked), most), dtype=first.dtype)
            for index, one in enumerate(columns):
                inputs[name][index, : len(one[name])] = one[name]
        logit_UN = self._run(inputs)
        return [
            probabilities(row_N[: len(candidates)])
            for row_N, (_, candidates) in zip(logit_UN, asked, strict=True)
        ]

    def _run(self, inputs: Tensors) -> NDArray[np.float32]:
        return self._graph.run({name: inputs[name] for name in self._graph.inputs})

    def _histories(self, users: Sequence[str], now: int) -> list[Records]:
        windows = []
        names = []
        for user in users:
            window = Window(self._dtype, wanted=self._length, first=self._length + EXTRA_RECORDS, cut=now)
            windows.append(window)
            names.append(self._layout.history(key(user)).encode())
        commands = [
            pack(b"GETRANGE", name, *(b"%d" % edge for edge in window.byte_range))
            for window, name in zip(windows, names, strict=True)
        ]
        self._socket.sendall(b"".join(commands))
        found = []
        for window in windows:
            records = window.take(self._reply(), None)
            assert records is not None, "the newest records are all in the past here"
            found.append(records)
        return found

    def _reply(self) -> bytes:
        while (reply := self._replies.gets()) is False:
            self._replies.feed(self._socket.recv(1 << 18))
        assert isinstance(reply, bytes), reply
        return reply


def _connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(parts.path)
    else:
        connection = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if parts.password:
            connection.sendall(pack(b"AUTH", parts.password.encode()))
            assert connection.recv(100).startswith(b"+OK")
    return connection
