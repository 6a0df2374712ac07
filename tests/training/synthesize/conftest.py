"""Two synthesized logs: a small one to take apart, and one with enough clicks to count."""

import pytest

from tests.training.synthesize.sizes import SMALL
from training.synthesize.log import synthesize


@pytest.fixture(scope="session")
def small_log(tmp_path_factory):
    log = tmp_path_factory.mktemp("small") / "log"
    synthesize(log, **SMALL)
    return log


@pytest.fixture(scope="session")
def large_log(tmp_path_factory):
    log = tmp_path_factory.mktemp("large") / "log"
    synthesize(log, users=2_000, ads=500, events_per_user=60, seed=7)
    return log
