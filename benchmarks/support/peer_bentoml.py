"""The peer BentoML: `bentoml serve benchmarks.support.peer_bentoml:Score`, set up by the environment.

Environment: WORKERS processes, KIND of the API: `async` (on the event loop), `sync` (in its thread pool) or `batch`
(its adaptive batching, BATCH requests at most). Access log, metrics and tracing are off.
"""

import os
from typing import Any

import bentoml
from pydantic import BaseModel

from benchmarks.support.peer_scorer import PeerScorer

KIND = os.environ["KIND"]
OFF = {"enabled": False}


class Asked(BaseModel):
    """One request, as a member of a batch."""

    user_id: str
    candidates: list[str]


class _Base:
    def __init__(self) -> None:
        self._scorer = PeerScorer.from_environment()


class _Async(_Base):
    @bentoml.api(route="/score")  # type: ignore[untyped-decorator]
    async def score(self, user_id: str, candidates: list[str]) -> dict[str, Any]:
        """Score on the event loop: nothing here waits, and a change of thread is saved."""
        return {"scores": self._scorer.score(user_id, candidates).tolist()}


class _Sync(_Base):
    @bentoml.api(route="/score")  # type: ignore[untyped-decorator]
    def score(self, user_id: str, candidates: list[str]) -> dict[str, Any]:
        """Score in a thread of the pool, which has one."""
        return {"scores": self._scorer.score(user_id, candidates).tolist()}


class _Batch(_Base):
    @bentoml.api(  # type: ignore[untyped-decorator]
        route="/score",
        batchable=True,
        max_batch_size=int(os.environ["BATCH"]),
        max_latency_ms=1000,
    )
    def score(self, asked: list[Asked]) -> list[list[float]]:
        """Score what came together in one run of the graph."""
        scored = self._scorer.score_many([(one.user_id, one.candidates) for one in asked])
        return [scores_N.tolist() for scores_N in scored]


Score = bentoml.service(
    workers=int(os.environ["WORKERS"]),
    threads=1,
    logging={"access": OFF},
    metrics=OFF,
    tracing={"exporter_type": "in_memory", "sample_rate": 0.0},
    traffic={"timeout": 30},
)({"async": _Async, "sync": _Sync, "batch": _Batch}[KIND])
