"""The routes: `/score` and its alias, slots, probes, metrics, documentation; a problem for everything else."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from service.api import openapi
from service.api.answered import Observer
from service.api.docs import docs_page
from service.api.envelope import REQUEST_ID, App, Envelope
from service.api.models import SlotControl, add_models
from service.api.problems import CONTENT_TYPE as PROBLEM
from service.api.problems import problem, problem_of
from service.api.score import ScoreEndpoint
from service.api.state import ServiceState
from service.errors import ServiceError
from service.metrics import CONTENT_TYPE as METRICS_TEXT
from service.metrics import Metrics

TITLE: Final = "Longsight"
SCORE_PATHS: Final = ("/score", "/v1/score")


def build_app(
    state: ServiceState,
    metrics: Metrics,
    *,
    version: str,
    max_body_bytes: int,
    default_deadline_ms: float,
    observers: Sequence[Observer],
    slots: SlotControl,
    admin_token: str,
    clock: Callable[[], float],
) -> App:
    """Return the ASGI application.

    Args:
        state: what is served; may change later.
        metrics: told of every answer, and shown.
        version: of the program, for the documentation.
        max_body_bytes: largest request body.
        default_deadline_ms: deadline of requests without one; 0 = none.
        observers: told of every scoring answer; may grow later.
        slots: changes them.
        admin_token: what changing them asks for; "" = it is not allowed.
        clock: seconds; the clock of deadlines and stage times.

    """
    app = FastAPI(
        title=TITLE, version=version, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    score = ScoreEndpoint(
        state,
        metrics,
        max_body_bytes=max_body_bytes,
        default_deadline_ms=default_deadline_ms,
        observers=observers,
        clock=clock,
    )
    _add_score(app, score)
    add_models(app, slots, admin_token=admin_token)
    _add_probes(app, state, metrics)
    _add_documentation(app, state)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ServiceError, _on_service_error)
    direct = dict.fromkeys(SCORE_PATHS, score)
    return Envelope(app, direct=direct, metrics=metrics, draining=lambda: state.draining, clock=clock)


class _RawRoute(APIRoute):
    """A route that FastAPI documents and an ASGI endpoint of our own answers."""

    def __init__(self, path: str, raw: App, **options: Any) -> None:  # noqa: ANN401 - FastAPI's own
        super().__init__(path, _documented, **options)
        self.app = raw


def _documented() -> None:
    """Stand in for an endpoint where FastAPI wants a function to look at."""


def _add_score(app: FastAPI, score: ScoreEndpoint) -> None:
    for path in SCORE_PATHS:
        alias = path != SCORE_PATHS[0]
        app.router.routes.append(
            _RawRoute(
                path,
                score,
                methods=["POST"],
                summary="Score candidates" + (" (alias of /score)" if alias else ""),
                description=openapi.SCORE_DESCRIPTION,
                operation_id="score_v1" if alias else "score",
                responses=openapi.score_responses(),
                openapi_extra=openapi.score_body(None),
            )
        )


def _add_probes(app: FastAPI, state: ServiceState, metrics: Metrics) -> None:
    @app.get("/livez", summary="Is the process alive?")
    async def livez() -> Response:
        return _json(200, {"alive": True})

    @app.get("/readyz", summary="May it be sent requests? 503 with the reason while not")
    async def readyz() -> Response:
        report = state.report()
        return _json(200 if report["ready"] else 503, report)

    @app.get("/metrics", summary="Metrics for Prometheus")
    async def show_metrics() -> Response:
        return Response(metrics.exposition(), media_type=METRICS_TEXT)

    @app.get("/", summary="What this is")
    async def root() -> Response:
        return _json(200, {"service": TITLE, **state.report(), "score": "/score", "docs": "/docs"})


def _add_documentation(app: FastAPI, state: ServiceState) -> None:
    def document() -> dict[str, Any]:
        lineup = state.lineup
        for route in app.routes:
            if isinstance(route, _RawRoute) and lineup is not None:
                route.openapi_extra = openapi.score_body(lineup.champion.reader.json_schema())
        return get_openapi(title=app.title, version=app.version, routes=app.routes)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi_json() -> Response:
        return _json(200, document())

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(docs_page(document()), media_type="text/html; charset=utf-8")


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for another class: this is a bug"
    details = {
        404: f"there is no {request.url.path} here; /docs lists what there is",
        405: f"{request.url.path} does not answer {request.method}",
    }
    detail = details.get(error.status_code, error.detail)
    body = problem(error.status_code, request_id=request.scope[REQUEST_ID], detail=detail)
    return Response(body, error.status_code, headers=dict(error.headers or {}), media_type=PROBLEM)


async def _on_service_error(request: Request, error: Exception) -> Response:
    status, body, headers = problem_of(error, request.scope[REQUEST_ID])
    return Response(body, status, headers=headers, media_type=PROBLEM)


def _json(status: int, content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")
