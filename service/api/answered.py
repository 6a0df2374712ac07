"""What those may look at who act on a request after its answer was sent: the caller waits for none of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from service.api.state import Served
from service.scoring.request import ScoreAnswer, ScoreRequest


@dataclass(frozen=True, slots=True)
class Answered:
    """A scoring request that got its scores.

    Attributes:
        served: what scored it.
        raw: its body as it came.
        content_type: of the body.
        request: what it asked for; its timestamp is the one that was used.
        answer: its scores and what they rest on; `answer.stage_s` has all stages.
        request_id: as it was answered.
        seconds: from its arrival until the answer was handed to the connection.

    """

    served: Served
    raw: bytes
    content_type: bytes
    request: ScoreRequest
    answer: ScoreAnswer
    request_id: str
    seconds: float


Observer: TypeAlias = Callable[[Answered], None]
"""Told of every answer, on the event loop: what takes long goes elsewhere."""
