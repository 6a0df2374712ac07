"""`POST /score`: a plain ASGI endpoint, since FastAPI's own body handling costs more than the whole rest.

Counting happens after the answer is sent, so that the caller does not wait for it.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgpack
import orjson

from contract.errors import InputError
from contract.keys import text_of
from service.api import requests
from service.api.answered import Answered, Observer
from service.api.body import Body
from service.api.envelope import REQUEST_ID, Receive, Scope, Send, header_safe, send_bytes, send_problem
from service.api.state import Served, ServiceState
from service.errors import (
    BodyTooLargeError,
    CallerLeftError,
    InvalidRequestError,
    ServiceError,
)
from service.metrics import STAGES, Metrics
from service.scoring.request import ScoreAnswer, ScoreRequest

JSON: Final = b"application/json"
MSGPACK: Final = b"application/msgpack"
MAX_EXPLAINED: Final = 20_000  # behaviours named in one answer: more would hold up the event loop
WATCH_AFTER_S: Final = 0.025  # a request that takes longer is given up when its caller leaves

_TIMING: Final = b", ".join(stage.encode() + b";dur=%.3f" for stage in STAGES)


class ScoreEndpoint:
    """Reads, scores, answers.

    Args:
        state: what is served.
        metrics: told how long reading and answering took.
        max_body_bytes: largest body.
        default_deadline_ms: for requests without one; 0 = none.
        observers: told of every answer, once it is sent; may grow later.
        clock: seconds; the clock of deadlines and stage times.

    """

    def __init__(
        self,
        state: ServiceState,
        metrics: Metrics,
        *,
        max_body_bytes: int,
        default_deadline_ms: float,
        observers: Sequence[Observer],
        clock: Callable[[], float],
    ) -> None:
        self._state = state
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._default_deadline_ms = default_deadline_ms
        self._observers = observers
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a problem for every error that has a status."""
        arrived_s = self._clock()
        headers = dict(scope["headers"])
        try:
            unseen_s = self._state.meet()
            raw = await read_body(receive, headers, limit=self._max_body_bytes)
            served, body = self._state.require().read(raw, msgpack=_is_msgpack(headers))
            request = self._request(served, body, arrived_s - unseen_s)
            scope[REQUEST_ID] = _header_id(body, scope[REQUEST_ID])
            parsed_s = self._clock()
            answer = await self._score(served, request, receive)
            responding_s = self._clock()
        except CallerLeftError:
            self._metrics.shed["caller_left"].inc()
            return
        except ServiceError as error:
            await send_problem(error, scope, send)
            return
        except InputError as error:
            await send_problem(requests.too_long(body, error), scope, send)
            return
        content = _content(served, body, answer, request_id=scope[REQUEST_ID])
        content_type, data = _encoded(content, headers)
        answer.stage_s["parse"] = parsed_s - arrived_s
        answer.stage_s["respond"] = self._clock() - responding_s
        timing = _TIMING % tuple([1e3 * answer.stage_s[stage] for stage in STAGES])
        headers_out = ((b"server-timing", timing),)
        await send_bytes(send, 200, data, content_type=content_type, headers=headers_out)
        served.scorer.observe(answer)
        if self._observers:
            seconds = self._clock() - arrived_s
            kind = headers.get(b"content-type", b"")
            done = Answered(served, raw, kind, request, answer, scope[REQUEST_ID], seconds)
            for observer in self._observers:
                observer(done)

    def _request(self, served: Served, body: Body, arrived_s: float) -> ScoreRequest:
        moment = requests.Moment(
            now_s=time.time(), arrived_s=arrived_s, answer_wait_s=served.scorer.answer_wait_s
        )
        request = requests.request_of(body, moment, default_deadline_ms=self._default_deadline_ms)
        if request.explain:
            _check_explain(request, served.longest_explanation)
        return request

    async def _score(self, served: Served, request: ScoreRequest, receive: Receive) -> ScoreAnswer:
        """Score, and give up if the caller leaves meanwhile; one who is alone keeps nobody waiting."""
        watch = _CallerWatch(receive) if served.scorer.busy else None
        served.inside += 1
        try:
            return await served.scorer.score(request)
        except asyncio.CancelledError:
            if watch is not None and watch.left:
                raise CallerLeftError("the caller closed the connection") from None
            raise
        finally:
            served.inside -= 1
            if watch is not None:
                watch.stop()


class _CallerWatch:
    """Cancels the task that made it when the caller closes the connection; begins after `WATCH_AFTER_S`."""

    def __init__(self, receive: Receive) -> None:
        loop = asyncio.get_running_loop()
        self.left = False
        self._receive = receive
        self._owner = asyncio.current_task(loop)
        self._watcher: asyncio.Task[None] | None = None
        self._timer = loop.call_later(WATCH_AFTER_S, self._begin)

    def stop(self) -> None:
        """Watch no longer."""
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def _begin(self) -> None:
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        assert self._owner is not None, "a watch outside a task: this is a bug"
        self._owner.cancel()


async def read_body(receive: Receive, headers: dict[bytes, bytes], *, limit: int) -> bytes:
    """Return the whole body.

    Raises:
        BodyTooLargeError: it is, or declares to be, larger than `limit` bytes.
        CallerLeftError: the caller left while sending.

    """
    declared = headers.get(b"content-length", b"0")
    if int(declared) > limit:
        raise BodyTooLargeError(f"the body has {int(declared)} bytes, more than the {limit} allowed")
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) <= limit:
            return body
    pieces = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise CallerLeftError("the caller closed the connection while sending")
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > limit:
            raise BodyTooLargeError(f"the body has more than the {limit} bytes allowed")
        if not message.get("more_body"):
            return b"".join(pieces)
        message = await receive()


def _check_explain(request: ScoreRequest, longest: int) -> None:
    if not longest:
        raise InvalidRequestError.at("explain", "this bundle has no explanations; leave it out, or send 0")
    count = len(request.ad_ids)
    if min(request.explain, longest) * count > MAX_EXPLAINED:
        raise InvalidRequestError.at(
            "explain",
            f"{min(request.explain, longest)} behaviours for each of {count} candidates are more than the "
            f"{MAX_EXPLAINED} that one answer may name",
        )


def _is_msgpack(headers: dict[bytes, bytes]) -> bool:
    return b"msgpack" in headers.get(b"content-type", b"")


def _content(served: Served, body: Body, answer: ScoreAnswer, *, request_id: str) -> dict[str, Any]:
    given = body.get("request_id")
    content = {
        "request_id": request_id if given is None else given,
        "model": served.name,
        "version": served.version,
        "scores": answer.scores,
        "history": {
            "status": answer.history_status,
            "length": answer.history_length,
            "newest_age_s": answer.newest_age_s,
        },
        "unknown_ads": answer.unknown_ads,
    }
    if answer.explanations is not None:
        content["explanations"] = answer.explanations
    return content


def _encoded(content: dict[str, Any], headers: dict[bytes, bytes]) -> tuple[bytes, bytes]:
    """Return content type and bytes: msgpack if asked for, or if the request was and asks for nothing else."""
    accept = headers.get(b"accept", b"")
    if b"msgpack" in accept or (_is_msgpack(headers) and b"json" not in accept):
        content["scores"] = content["scores"].tolist()
        return MSGPACK, msgpack.packb(content)
    return JSON, orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def _header_id(body: Body, otherwise: str) -> str:
    """Return the id for the answer's header: the body's, if it may stand there."""
    given = body.get("request_id")
    if given is None:
        return otherwise
    text = text_of(given)
    return text if header_safe(text) else otherwise
