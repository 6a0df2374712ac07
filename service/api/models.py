"""`/models`: what the slots hold, and how an operator changes it."""

import hmac
from typing import Any, Protocol

import orjson
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.api import openapi
from service.api.complaints import complaints_of
from service.api.score import read_body
from service.api.state import SLOTS, Slot
from service.errors import InvalidRequestError, RequestSyntaxError, UnauthorizedError, UnknownSlotError

MAX_BODY_BYTES = 65_536


class SlotChange(BaseModel):
    """The body of `POST /models/{slot}`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    bundle: str | None = Field(
        max_length=1024, description="Name under models.bundle_root; null empties the slot."
    )
    share: float | None = Field(
        None, ge=0, le=1, allow_inf_nan=False, description="Of the users, for the challenger; default 0.1."
    )


class SlotControl(Protocol):
    """What changes slots, in all workers."""

    def describe(self) -> dict[str, Any]:
        """Return what `GET /models` shows; raises NotReadyError while nothing is served."""
        ...

    async def put(self, slot: Slot, change: SlotChange) -> None:
        """Put a bundle into a slot, or nothing."""
        ...

    async def roll_back(self, slot: Slot) -> None:
        """Put back what a slot held before."""
        ...


def add_models(app: FastAPI, control: SlotControl, *, admin_token: str) -> None:
    """Add the routes.

    Args:
        app: to this.
        control: does the work.
        admin_token: asked for by whatever changes something; "" = nothing can be changed.

    """

    @app.get("/models", summary="What the slots hold", responses=openapi.models_responses())
    async def models() -> Response:
        return _described(control)

    @app.post(
        "/models/{slot}",
        summary="Put a bundle into a slot, or empty it",
        description=openapi.PUT_SLOT,
        responses=openapi.models_responses(changed=True),
        openapi_extra=openapi.slot_body(SlotChange.model_json_schema()),
    )
    async def put(slot: str, request: Request) -> Response:
        _authorize(request, admin_token)
        known = _slot(slot)
        raw = await read_body(request.receive, dict(request.scope["headers"]), limit=MAX_BODY_BYTES)
        await control.put(known, _change(raw))
        return _described(control)

    @app.post(
        "/models/{slot}/rollback",
        summary="Put back what a slot held before",
        description=openapi.ROLL_BACK,
        responses=openapi.models_responses(changed=True),
        openapi_extra=openapi.TOKEN,
    )
    async def roll_back(slot: str, request: Request) -> Response:
        _authorize(request, admin_token)
        await control.roll_back(_slot(slot))
        return _described(control)


def _described(control: SlotControl) -> Response:
    return Response(orjson.dumps(control.describe()), media_type="application/json")


def _authorize(request: Request, admin_token: str) -> None:
    if not admin_token:
        raise UnauthorizedError(
            "no admin token is set, so nothing can be changed; set LONGSIGHT_AUTH__ADMIN_TOKEN"
        )
    given = dict(request.scope["headers"]).get(b"authorization", b"")
    scheme, _, token = given.partition(b" ")
    right = hmac.compare_digest(token.strip(), admin_token.encode())
    if not right or scheme.lower() != b"bearer":
        raise UnauthorizedError("this needs the admin token, as Authorization: Bearer")


def _slot(name: str) -> Slot:
    for slot in SLOTS:
        if slot == name:
            return slot
    raise UnknownSlotError(f"there is no slot {name!r}; there are {', '.join(SLOTS)}")


def _change(raw: bytes) -> SlotChange:
    try:
        return SlotChange.model_validate_json(raw)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        if details[0]["type"] == "json_invalid":
            raise RequestSyntaxError(f"the body is not JSON: {details[0]['ctx']['error']}") from error
        raise InvalidRequestError(complaints_of(details)) from error
