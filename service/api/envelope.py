"""What every answer carries: a request id, and its place in the metrics. A plain ASGI wrapper, for its speed.

A `POST` to one of the `direct` paths goes straight to its endpoint: the layers of the framework would do nothing for
it, and cost more than reading the body. While the service drains, answers also ask the caller to close the
connection: the next request then goes to another.
"""

import asyncio
import itertools
import logging
import secrets
import string
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final, TypeAlias

from service.api.problems import CONTENT_TYPE, problem_of
from service.api.state import SLOTS
from service.metrics import MODEL_ROUTES, ROUTES, Metrics

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_ID: Final = "longsight.request_id"  # key in the scope; a route may replace it before it answers
MAX_REQUEST_ID: Final = 128
COUNT_EVERY_S: Final = 0.25  # what other workers show of this one is at most so old

_HEADER: Final = b"x-request-id"
_CLOSE: Final = (b"connection", b"close")
_ALLOWED: Final = frozenset(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~:/=@,;()[]{}<>?")
_LABELS: Final = (
    {route: route for route in ROUTES}
    | {"/v1/score": "/score"}
    | {route.replace("{slot}", slot): route for route in MODEL_ROUTES for slot in SLOTS}
)

logger = logging.getLogger(__name__)


class Envelope:
    """Wraps the application: ids on answers, counts, and a problem for what nobody caught.

    Args:
        app: the application.
        direct: endpoints of paths whose POST needs no framework.
        metrics: told of every answer.
        draining: whether the service is about to end.
        clock: seconds.

    """

    def __init__(
        self,
        app: App,
        *,
        direct: Mapping[str, App],
        metrics: Metrics,
        draining: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._app = app
        self._direct = direct
        self._draining = draining
        self._metrics = metrics
        self._clock = clock
        self._counting = False
        # unique among processes by chance, within one by counting; no system call per request
        self._id_prefix = secrets.token_hex(6)
        self._id_numbers = itertools.count(secrets.randbits(16))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = self._clock()
        scope[REQUEST_ID] = _given_id(scope) or f"{self._id_prefix}{next(self._id_numbers):08x}"
        code = 0

        async def send_with_id(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                headers = [*message.get("headers", ()), (_HEADER, scope[REQUEST_ID].encode("ascii"))]
                message["headers"] = [*headers, _CLOSE] if self._draining() else headers
            await send(message)

        try:
            app = self._direct.get(scope["path"]) if scope["method"] == "POST" else None
            await (app or self._app)(scope, receive, send_with_id)
        except Exception as error:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            if not code:
                await send_problem(error, scope, send_with_id)
        if code:
            route = _LABELS.get(scope["path"], "other")
            self._metrics.answered(route, code, self._clock() - started_s)
            if not self._counting:
                self._counting = True
                asyncio.get_running_loop().call_later(COUNT_EVERY_S, self._count)

    def _count(self) -> None:
        self._counting = False
        self._metrics.count_waiting()


async def send_problem(error: BaseException, scope: Scope, send: Send) -> None:
    """Answer with the problem details of an error."""
    status, body, headers = problem_of(error, scope[REQUEST_ID])
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send_bytes(send, status, body, content_type=CONTENT_TYPE.encode(), headers=pairs)


async def send_bytes(
    send: Send, status: int, body: bytes, *, content_type: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Send a whole answer."""
    pairs = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def header_safe(text: str) -> bool:
    """Whether a request id may stand in a header: printable ASCII, not too long."""
    return 0 < len(text) <= MAX_REQUEST_ID and _ALLOWED.issuperset(text)


def _given_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == _HEADER:
            text = value.decode("latin-1")
            return text if header_safe(text) else ""
    return ""
