"""What is kept of a request and its answer, and how that is read again: one line of JSON each.

The body stands in the line as it came: JSON as JSON, msgpack in base64. The timestamp that was used stands beside
it, since a body may leave it out.
"""

import base64
import json
from typing import Any, Final, Literal, TypeAlias

import msgpack
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contract.errors import InputError

FORMAT: Final = 1
HEAD: Final = b'{"capture":%d,' % FORMAT
"""How every line begins: what a file of captures is known by."""

Why: TypeAlias = Literal["sample", "slow"]


class CaptureError(InputError):
    """What should hold captured requests holds something else."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class CapturedHistory(_Part):
    """What the scores rested on, as it was answered."""

    status: str
    length: int
    newest_age_s: int | None


class CapturedAnswer(_Part):
    """The probabilities of the N candidates, and what they rested on."""

    scores: list[float]
    history: CapturedHistory
    unknown_ads: int


class Captured(_Part):
    """A request that was kept, and its answer.

    Attributes:
        at: seconds UTC at which it came.
        why: it was kept.
        timestamp: the request's time that was used.
        content_type: of the body.
        stage_ms: milliseconds in each stage, as in `Server-Timing`.
        total_ms: from its arrival until the answer was handed to the connection.

    """

    capture: Literal[1] = Field(repr=False)
    at: float
    why: Why
    request_id: str
    model: str
    version: str
    slot: str
    timestamp: int
    content_type: str
    body: dict[str, Any] | None = None
    body_base64: str | None = None
    answer: CapturedAnswer
    stage_ms: dict[str, float]
    total_ms: float

    @property
    def is_msgpack(self) -> bool:
        """Whether the body came as msgpack."""
        return self.body is None

    def request(self) -> dict[str, Any]:
        """Return the body to send again: at the captured time, and without the deadline, which ran out long ago."""
        body = dict(self.body) if self.body is not None else unpacked(self.body_base64 or "")
        body.pop("deadline_ms", None)
        return {**body, "timestamp": self.timestamp}


def parse(line: bytes) -> Captured:
    """Return what a line holds.

    Raises:
        CaptureError: it is no captured request; says what is wrong with it, not where it stands.

    """
    try:
        captured = Captured.model_validate_json(line)
        if captured.body is None:
            unpacked(captured.body_base64 or "")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CaptureError(f"{place}: {first['msg']}" if place else first["msg"]) from error
    return captured


def unpacked(text: str) -> dict[str, Any]:
    """Return a msgpack body from its base64.

    Raises:
        CaptureError: it is none.

    """
    try:
        body = msgpack.unpackb(base64.b64decode(text, validate=True))
    except Exception as error:  # msgpack's exceptions have no common base
        raise CaptureError("body_base64: not a msgpack body") from error
    if not isinstance(body, dict):
        raise CaptureError("body_base64: not a msgpack body")
    return body


def packed(captured: Captured) -> bytes:
    """Return the bytes to send again, in the form in which they came."""
    body = captured.request()
    if captured.is_msgpack:
        data: bytes = msgpack.packb(body)
        return data
    return json.dumps(body, separators=(",", ":")).encode()
