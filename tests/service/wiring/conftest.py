"""A bundle and a store for tests that start, break and end services."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.history.load import load
from tests.service.conftest import Server
from tests.support.tiny import tiny_bundle, tiny_log


@dataclass(frozen=True)
class House:
    bundle: Path
    redis: str


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A tiny bundle and a store that holds its log."""
    folder = tmp_path_factory.mktemp("house")
    server = Server(folder / "store")
    load(tiny_log(folder), redis_url=server.url)
    yield House(tiny_bundle(folder), server.url)
    server.stop()
