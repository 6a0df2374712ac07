"""A bundle and a store for tests that start, break and end services."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.history.load import load
from tests.service.conftest import Server
from tests.support.serving import service
from tests.support.slots import TOKEN, some_bundles
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


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """Bundles `a` and `c` (tin) and `b` (mean_pool), and what is no good one."""
    return some_bundles(tmp_path_factory.mktemp("root") / "bundles")


@pytest.fixture
def serving(root, house, tmp_path):
    """Starts services that keep their slots in the test's own folder."""

    def start(*arguments, bundle="a", **environment):
        settings = {
            "LONGSIGHT_AUTH__ADMIN_TOKEN": TOKEN,
            "LONGSIGHT_MODELS__STATE_DIR": str(tmp_path / "state"),
            "LONGSIGHT_REDIS__READ_TIMEOUT_S": "5",
            **environment,
        }
        return service(root / bundle, house.redis, *arguments, **settings)

    return start


@pytest.fixture(scope="module")
def refusing(root, house, tmp_path_factory):
    """One service of two workers for all that changes nothing."""
    settings = {
        "LONGSIGHT_AUTH__ADMIN_TOKEN": TOKEN,
        "LONGSIGHT_MODELS__STATE_DIR": str(tmp_path_factory.mktemp("refusing")),
    }
    with service(root / "a", house.redis, "--workers", "2", **settings) as started:
        yield started.wait()
