"""RFC 9457 problem details, and the one table from class of error to HTTP status."""

import http
from collections.abc import Mapping
from typing import Any, Final

import orjson

from service.errors import (
    BodyTooLargeError,
    BundleRefusedError,
    DeadlineExceededError,
    DeadlineOutOfReachError,
    InferenceError,
    InvalidRequestError,
    LoopBehindError,
    NotReadyError,
    OverloadedError,
    RequestSyntaxError,
    ServiceError,
    SlotChangeError,
    SlotConflictError,
    UnauthorizedError,
    UnknownModelError,
    UnknownSlotError,
)

CONTENT_TYPE: Final = "application/problem+json"

# class -> status and the name that a program can branch on; whatever is not here is a bug, and 500
STATUS: Final[Mapping[type[ServiceError], tuple[int, str]]] = {
    RequestSyntaxError: (400, "not-json"),
    UnauthorizedError: (401, "unauthorized"),
    UnknownModelError: (404, "unknown-model"),
    UnknownSlotError: (404, "unknown-slot"),
    SlotConflictError: (409, "slot-conflict"),
    BodyTooLargeError: (413, "body-too-large"),
    InvalidRequestError: (422, "invalid-request"),
    BundleRefusedError: (422, "bundle-refused"),
    OverloadedError: (429, "overloaded"),
    LoopBehindError: (429, "overloaded"),
    DeadlineOutOfReachError: (429, "deadline-out-of-reach"),
    InferenceError: (500, "inference"),
    NotReadyError: (503, "not-ready"),
    SlotChangeError: (503, "slots-not-changed"),
    DeadlineExceededError: (504, "deadline-exceeded"),
}


def problem_of(error: BaseException, request_id: str) -> tuple[int, bytes, dict[str, str]]:
    """Return status, body and further headers of the answer to an error; one that is not ours is told as a bug."""
    if not isinstance(error, ServiceError):
        return (
            500,
            problem(500, request_id=request_id, detail="an error of the service; its log has the details"),
            {},
        )
    status, name = STATUS[type(error)]
    more: dict[str, Any] = {}
    if isinstance(error, InvalidRequestError):
        more["errors"] = [{"where": item.where, "detail": item.what} for item in error.complaints]
    headers = {}
    if isinstance(error, OverloadedError):
        headers["retry-after"] = str(error.retry_after_s)
    elif isinstance(error, UnauthorizedError):
        headers["www-authenticate"] = "Bearer"
    return status, problem(status, request_id=request_id, detail=str(error), name=name, more=more), headers


def problem(
    status: int, *, request_id: str, detail: str, name: str = "", more: Mapping[str, Any] | None = None
) -> bytes:
    """Return the body of a problem: type, title, status, detail, request_id and what is in `more`."""
    phrase = http.HTTPStatus(status).phrase
    title = name.replace("-", " ").capitalize() if name else phrase
    body = {
        "type": f"urn:longsight:{name}" if name else "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "request_id": request_id,
        **(more or {}),
    }
    return orjson.dumps(body)
