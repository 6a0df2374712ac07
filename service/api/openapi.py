"""What `/openapi.json` says about bodies that FastAPI never sees: those of `POST /score` and of `/models`."""

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

PUT_SLOT: Final = """\
Every worker verifies the bundle, opens it beside the running one and warms it up; then all switch. The answer comes
when every worker serves it; anything else than 200 means that all serve what they served before. Requests that run
meanwhile finish on what they began with. Slots: `champion` answers; `challenger` answers the `share` of the users,
always the same ones; `shadow` scores after the answer, for the metrics alone. `bundle` null empties challenger or
shadow. Needs the admin token."""
ROLL_BACK: Final = """\
Puts back what the slot held before, as `POST /models/{slot}` would; twice in a row is as if nothing had happened.
Needs the admin token."""
TOKEN: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "Authorization",
            "in": "header",
            "required": True,
            "schema": {"type": "string"},
            "example": "Bearer TOKEN",
        }
    ]
}
_MODELS: Final = {
    "generation": 3,
    "slots": [
        {
            "slot": "champion",
            "name": "tin",
            "version": "20261123T101500Z-3f2a9c",
            "bundle": "tin-monday",
            "share": None,
            "previous": {"name": "tin", "version": "20261122T101500Z-91cc07", "bundle": "tin-sunday"},
        }
    ],
}
_SLOT_REFUSALS: Final[Mapping[int, str]] = {
    400: "The body is not JSON.",
    401: "The admin token is missing or wrong, or the service has none.",
    404: "There is no such slot.",
    409: "Another change is under way, or there is nothing to go back to.",
    422: "The bundle can't be served, or the body breaks the rules.",
    503: "Not ready, or not all workers could change.",
}


def slot_body(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return `requestBody` and token of a change of a slot."""
    media = {"schema": dict(schema), "example": {"bundle": "tin-monday", "share": 0.1}}
    return {**TOKEN, "requestBody": {"required": True, "content": {"application/json": media}}}


def models_responses(*, changed: bool = False) -> dict[int | str, dict[str, Any]]:
    """Return the answers of the routes of slots."""
    answers: dict[int | str, dict[str, Any]] = {
        200: {"description": "What the slots hold.", "content": {"application/json": {"example": _MODELS}}}
    }
    for status, description in _SLOT_REFUSALS.items():
        if changed or status == 503:
            answers[status] = {
                "description": description,
                "content": {"application/problem+json": {"schema": _PROBLEM}},
            }
    return answers


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
