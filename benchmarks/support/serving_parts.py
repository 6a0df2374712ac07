"""What the parts of the serving benchmark share: the stand they measure on, and how the service can be set up."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from benchmarks.support.closed_loop import Load, Target, closed_loop
from benchmarks.support.running_service import running
from benchmarks.support.score_traffic import JSON, MSGPACK, write_bodies, zipf_requests
from benchmarks.support.serving_stand import Stand

CONNECTIONS: Final = (1, 4, 16, 64)


@dataclass(frozen=True)
class Effort:
    """How long things are measured."""

    seconds: float = 5.0
    """Of one run of the load generator."""
    rounds: int = 3
    """Turns in which compared things alternate."""
    play_offs: int = 5
    """The same, of what may be the best of both sides."""
    soak_s: float = 600.0


@dataclass(frozen=True)
class Setup:
    """One way to start the service."""

    name: str
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict, hash=False)
    body: str = JSON


DEFAULT: Final = Setup("1 process")
WORKERS: Final = Setup("2 workers", ("--workers", "2"))
UNCONFIRMED: Final = Setup(
    "2 workers, changes not confirmed", ("--workers", "2"), {"LONGSIGHT_REDIS__CONFIRM": "false"}
)
SETUPS: Final = (
    DEFAULT,
    Setup("1 process, 1 thread", (), {"LONGSIGHT_RUNTIME__THREADS": "1"}),
    WORKERS,
    Setup("2 workers, every request asks", ("--workers", "2"), {"LONGSIGHT_REDIS__TRACKING": "false"}),
    UNCONFIRMED,
    Setup("2 workers, runs on threads", ("--workers", "2"), {"LONGSIGHT_BATCHING__TURN_MS": "0"}),
    Setup("2 workers, 2 threads", ("--workers", "2"), {"LONGSIGHT_RUNTIME__THREADS": "2"}),
    Setup("1 process, batches of 8", (), {"LONGSIGHT_BATCHING__MAX_REQUESTS": "8"}),
    Setup("2 workers, batches of 8", ("--workers", "2"), {"LONGSIGHT_BATCHING__MAX_REQUESTS": "8"}),
    Setup("2 workers, msgpack", ("--workers", "2"), {}, MSGPACK),
)


def setup_called(name: str) -> Setup:
    """Return one of `SETUPS`, or two workers if none has that name any more."""
    return next((setup for setup in SETUPS if setup.name == name), WORKERS)


@contextlib.contextmanager
def service(stand: Stand, setup: Setup, *, bundle: str = "tin") -> Iterator[Target]:
    """Start the service on a bundle of the stand; yields where requests by Zipf's law go."""
    asked = zipf_requests(stand.sizes.users)
    kind = setup.body.rpartition("/")[2]
    bodies = [one.msgpack() if setup.body == MSGPACK else one.json() for one in asked]
    path = write_bodies(stand.folder / "bodies" / kind, bodies)
    with running(stand.prepared(bundle), *setup.arguments, environment=setup.environment) as ready:
        url = f"http://{ready.host}:{ready.port}/score"
        yield Target(url, path, {"service": ready.process.pid, "store": stand.store_pid}, setup.body)


def loads(target: Target, effort: Effort, connections: tuple[int, ...] = CONNECTIONS) -> list[Load]:
    """Load a target at each number of connections, and print a line for each."""
    found = []
    for number in connections:
        found.append(closed_loop(target, connections=number, seconds=effort.seconds))
        print(found[-1].line(), flush=True)
    return found
