"""The peer mosec: `python -m benchmarks.support.peer_mosec --port P`, set up by the environment.

Environment: WORKERS processes, BATCH requests in one call at most (waited for WAIT_MS), BODY json or msgpack.
"""

import os
from collections.abc import Mapping
from typing import Any

import msgpack
import orjson
from mosec import Server, Worker

from benchmarks.support.peer_scorer import PeerScorer

BATCH = int(os.environ["BATCH"])
MSGPACK = os.environ["BODY"] == "msgpack"

Asked = Mapping[str, Any]


class ScoreWorker(Worker):  # type: ignore[misc]  # mosec ships no types we install
    """Scores in its process; JSON by orjson, which is several times faster than mosec's default."""

    def __init__(self) -> None:
        self._scorer = PeerScorer.from_environment()

    def deserialize(self, data: bytes) -> Any:  # noqa: ANN401 - mosec's interface
        """Return the request."""
        return msgpack.unpackb(data) if MSGPACK else orjson.loads(data)

    def serialize(self, data: Any) -> bytes:  # noqa: ANN401 - mosec's interface
        """Return the body of the answer."""
        if MSGPACK:
            packed: bytes = msgpack.packb({"scores": data.tolist()})
            return packed
        return orjson.dumps({"scores": data}, option=orjson.OPT_SERIALIZE_NUMPY)

    def forward(self, data: Any) -> Any:  # noqa: ANN401 - one request, or with BATCH > 1 a list of them
        """Score."""
        if BATCH == 1:
            return self._scorer.score(data["user_id"], data["candidates"])
        return self._scorer.score_many([(one["user_id"], one["candidates"]) for one in data])


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        ScoreWorker,
        num=int(os.environ["WORKERS"]),
        max_batch_size=BATCH,
        max_wait_time=int(os.environ["WAIT_MS"]),
        route="/score",
    )
    server.run()
