"""One service for all tests of what it answers, and what it should answer by the bundle alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from contract.bundle import Bundle
from contract.encoder import Encoder
from contract.records import empty_records
from contract.request import RawRequest
from service.history.embedded import embedded_server
from service.history.load import load
from service.runtime.graph import Graph
from tests.support.serving import Service, service
from tests.support.tiny import tiny_bundle, tiny_log


@dataclass(frozen=True)
class World:
    """A log, the bundle trained on it, and a store that holds it."""

    log: Path
    bundle: Path
    redis: str


class Offline:
    """Log-odds computed from the log and the bundle, without the service."""

    def __init__(self, world: World) -> None:
        self.bundle = Bundle.open(world.bundle)
        self.encoder: Encoder = self.bundle.encoder()
        self._graph = Graph(self.bundle.graph_path)
        self._behaviors = pl.read_parquet(world.log / "behaviors.parquet")
        self._ads = {row["ad_id"]: row for row in pl.read_parquet(world.log / "ads.parquet").to_dicts()}
        self._users = {
            str(row["user_id"]): row for row in pl.read_parquet(world.log / "users.parquet").to_dicts()
        }
        self.busiest = str(self._behaviors["user_id"].value_counts(sort=True)["user_id"][0])
        self.last_s = int(self._behaviors["timestamp"].max())

    def logits(self, user, ads, timestamp, **more) -> np.ndarray:
        return self.logits_of(self.request(user, ads, timestamp, **more))

    def logits_of(self, request: RawRequest) -> np.ndarray:
        tensors = request.encode(self.encoder)
        return self._graph.run({name: tensors[name] for name in self._graph.inputs})[0]

    def request(
        self, user, ads, timestamp, *, context=None, candidate_context=None, overrides=None
    ) -> RawRequest:
        features = [
            {**self._ads.get(str(ad), {}), "ad_id": ad, **(overrides or {}).get(ad, {})} for ad in ads
        ]
        return RawRequest(
            timestamp=timestamp,
            history=self.history(user),
            ads=features,
            context=context or {},
            candidate_context=candidate_context or {},
            user={} if user is None else {**self._users.get(str(user), {}), "user_id": user},
        )

    def history(self, user):
        rows = self._behaviors.filter(pl.col("user_id").cast(pl.String) == str(user)).sort(
            "timestamp", maintain_order=True
        )
        schema = self.bundle.schema
        records = empty_records(schema, len(rows))
        for field in schema.behavior:
            records[field.name] = self.encoder.pack("behavior", field.name, rows[field.name].to_list())
        records["timestamp"] = rows["timestamp"].to_numpy()
        records["action"] = [schema.actions.index(action) + 1 for action in rows["action"]]
        return records


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    log, bundle = tiny_log(folder), tiny_bundle(folder)
    with embedded_server(folder / "valkey") as url:
        load(log, redis_url=url)
        yield World(log, bundle, url)


@pytest.fixture(scope="session")
def served(world: World) -> Iterator[Service]:
    limits = {
        "LONGSIGHT_SERVER__MAX_CANDIDATES": "200",
        "LONGSIGHT_BATCHING__CHUNK_CANDIDATES": "64",
        # what is answered is tested here, not how soon: a busy machine has its histories late
        "LONGSIGHT_REDIS__READ_TIMEOUT_S": "2",
    }
    with service(world.bundle, world.redis, **limits) as started:
        yield started.wait()


@pytest.fixture(scope="session")
def offline(world: World) -> Offline:
    return Offline(world)
