"""From a request that was scored to its line in the file; `service.capture.record` reads it again."""

import base64
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from service.capture.record import FORMAT, Why

FIXED_BYTES: Final = 1000  # of a line without body and scores, and of the objects that hold it
SCORE_BYTES: Final = 28  # of a score in memory and in the line


@dataclass(slots=True)  # not frozen: filling a frozen one costs the event loop three times as much
class Record:
    """A scored request as the event loop hands it over; see `service.capture.record.Captured` for the rest.

    Attributes:
        raw: its body as it came.
        scores: float64 `[N]`.
        stage_s: seconds in each stage.
        seconds: from its arrival until the answer was handed to the connection.

    """

    at: float
    why: Why
    request_id: str
    model: str
    version: str
    slot: str
    timestamp: int
    content_type: bytes
    raw: bytes
    scores: NDArray[np.float64]
    history_status: str
    history_length: int
    newest_age_s: int | None
    unknown_ads: int
    stage_s: dict[str, float]
    seconds: float

    @property
    def size(self) -> int:
        """Bytes that it takes while it waits, about."""
        return FIXED_BYTES + len(self.raw) + SCORE_BYTES * len(self.scores)


def line_of(record: Record) -> bytes:
    """Return the line, its end included."""
    line: dict[str, Any] = {
        "capture": FORMAT,
        "at": record.at,
        "why": record.why,
        "request_id": record.request_id,
        "model": record.model,
        "version": record.version,
        "slot": record.slot,
        "timestamp": record.timestamp,
        "content_type": record.content_type.decode("latin-1"),
    }
    if b"msgpack" in record.content_type:
        line["body_base64"] = base64.b64encode(record.raw).decode()
    else:
        line["body"] = orjson.Fragment(_on_one_line(record.raw))
    line["answer"] = {
        "scores": record.scores,
        "history": {
            "status": record.history_status,
            "length": record.history_length,
            "newest_age_s": record.newest_age_s,
        },
        "unknown_ads": record.unknown_ads,
    }
    line["stage_ms"] = {stage: _ms(seconds) for stage, seconds in record.stage_s.items()}
    line["total_ms"] = _ms(record.seconds)
    return orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def _ms(seconds: float) -> float:
    """Return milliseconds to the microsecond; `round` takes four times as long."""
    return int(1e6 * seconds + 0.5) / 1e3


def _on_one_line(raw: bytes) -> bytes:
    """Return JSON without line breaks, which stand between its tokens only: inside a text they are escaped."""
    return raw.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in raw or b"\r" in raw else raw
