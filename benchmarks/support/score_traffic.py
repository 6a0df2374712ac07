"""Requests to score, as an ad server sends them: one user each, drawn by Zipf's law, and N ids of ads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks.support.serving_stand import ADS

BODIES: Final = 4096
"""Different requests of one run; they are sent in turn."""
CANDIDATES: Final = 100
JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"
ZIPF: Final = 1.0
"""The user of rank r is asked for r^-1 times as often as the first."""


@dataclass(frozen=True)
class Asked:
    """One request to score."""

    user_id: str
    candidates: list[str]

    def json(self, **more: object) -> bytes:
        """Return the body of `POST /score`."""
        return orjson.dumps({"user_id": self.user_id, "candidates": self.candidates, **more})

    def msgpack(self) -> bytes:
        """Return the same as msgpack."""
        packed: bytes = msgpack.packb({"user_id": self.user_id, "candidates": self.candidates})
        return packed


def zipf_requests(users: int, *, count: int = BODIES, candidates: int = CANDIDATES) -> list[Asked]:
    """Return requests of users `u0`, `u1`, ... whose ranks are shuffled, each with different ads."""
    rng = np.random.default_rng(7)
    weight = np.arange(1, users + 1, dtype=np.float64) ** -ZIPF
    drawn = rng.permutation(users)[rng.choice(users, count, p=weight / weight.sum())]
    return [Asked(f"u{user}", ads_of(rng, candidates)) for user in drawn]


def ads_of(rng: np.random.Generator, candidates: int) -> list[str]:
    """Return ids of different ads."""
    ads: NDArray[Any] = rng.choice(ADS, candidates, replace=False)
    return [str(ad) for ad in ads.tolist()]


def write_bodies(path: Path, bodies: list[bytes]) -> Path:
    """Write what `replay_bodies.lua` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(b"%08d%b" % (len(body), body) for body in bodies))
    return path
