"""What `/openapi.json` says about `POST /score`, whose body FastAPI never sees."""

from collections.abc import Mapping
from typing import Any, Final

SCORE_DESCRIPTION: Final = """\
Returns one click probability per candidate, in the order of the candidates.

`candidates` is a list of ids and objects (`{"ad_id", "context", "ad"}`), or one object of columns
(`{"ad_id": [...], "context": {field: [...]}, "ad": {field: [...]}}`). `ad` wins over the catalogue field by field and
describes ads it does not know; a candidate's `context` wins over the request's. Null is the same as leaving a field
out. `user_id` null = anonymous. `history.status` says what the scores rest on: `hit`, `empty`, or, when the store
failed, `timeout` or `unavailable`. `explain` = k also names the k behaviours that counted most for each candidate,
where the bundle has explanations. JSON and `application/msgpack`, in and out."""

_EXAMPLE: Final = {
    "user_id": "42",
    "candidates": ["ad-1", {"ad_id": "ad-2"}],
    "timestamp": 1514300000,
    "request_id": "r-1",
}
_ANSWER: Final = {
    "request_id": "r-1",
    "model": "tin",
    "version": "20261123T101500Z-3f2a9c",
    "scores": [0.0123, 0.0045],
    "history": {"status": "hit", "length": 734, "newest_age_s": 86400},
    "unknown_ads": 0,
}
_ANSWER_SCHEMA: Final = {
    "type": "object",
    "required": ["request_id", "model", "version", "scores", "history", "unknown_ads"],
    "properties": {
        "request_id": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        "model": {"type": "string"},
        "version": {"type": "string"},
        "scores": {
            "type": "array",
            "items": {"type": "number"},
            "description": "Probabilities, as candidates stand.",
        },
        "history": {
            "type": "object",
            "properties": {
                "status": {"enum": ["hit", "empty", "timeout", "unavailable"]},
                "length": {"type": "integer", "description": "Behaviours used."},
                "newest_age_s": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            },
        },
        "unknown_ads": {"type": "integer", "description": "Candidates that the catalogue does not know."},
        "explanations": {
            "type": "array",
            "description": "With `explain`: for each candidate the behaviours of the largest absolute weight.",
            "items": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["timestamp", "action", "weight"],
                    "properties": {
                        "timestamp": {"type": "integer"},
                        "action": {"type": "string"},
                        "weight": {"type": "number"},
                    },
                    "additionalProperties": {"type": ["string", "number", "null"]},
                },
            },
        },
    },
}
_PROBLEM: Final = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"where": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
_REFUSALS: Final[Mapping[int, str]] = {
    400: "The body is not JSON (or msgpack).",
    404: "The body names a model that is not served.",
    413: "The body is too large.",
    422: "The body breaks the rules; `errors` says where.",
    429: "Too many candidates are waiting; come back after `Retry-After` seconds.",
    503: "Not ready; `/readyz` says why.",
    504: "The deadline passed before the scoring began.",
}


def score_body(body_schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the operation's `requestBody`; without a schema (nothing is served yet) any object."""
    schema = dict(body_schema or {"type": "object"})
    media = {"schema": schema, "example": _EXAMPLE}
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": media, "application/msgpack": {"schema": schema}},
        }
    }


def score_responses() -> dict[int | str, dict[str, Any]]:
    """Return the operation's answers."""
    answers: dict[int | str, dict[str, Any]] = {
        200: {
            "description": "The probabilities.",
            "content": {"application/json": {"schema": _ANSWER_SCHEMA, "example": _ANSWER}},
        }
    }
    for status, description in _REFUSALS.items():
        answers[status] = {
            "description": description,
            "content": {"application/problem+json": {"schema": _PROBLEM}},
        }
    return answers
