"""Capture, built from its settings: what observes answers, and the thread and file behind it."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Final

from service.api.answered import Answered, Observer
from service.api.state import Served, ServiceState
from service.capture.choice import Choice
from service.capture.file import CaptureFile
from service.capture.lines import Record
from service.capture.writer import Writer
from service.metrics import Metrics
from service.settings import CaptureSettings

CLOSE_S: Final = 10.0

logger = logging.getLogger(__name__)


class Capture:
    """Keeps requests that were answered; its `observe` is an `Observer`.

    Args:
        settings: with a path.
        metrics: told what became of those that were to be kept.
        state: knows the slots.
        clock: seconds; any.
        now: seconds UTC.
        generator: draws the sample.

    Raises:
        service.capture.record.CaptureError: the path can't be written.

    """

    def __init__(
        self,
        settings: CaptureSettings,
        metrics: Metrics,
        state: ServiceState,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        generator: random.Random | None = None,
    ) -> None:
        assert settings.path is not None, "whoever builds it has looked"
        self._captured = metrics.captured
        self._state = state
        self._now = now
        self._choice = Choice(
            sample=settings.sample,
            slow_s=settings.slow_ms / 1e3,
            per_second=settings.per_second,
            generator=generator or random.Random(),  # noqa: S311 - a sample, no secret
            clock=clock,
        )
        file = CaptureFile(settings.path, max_bytes=settings.max_bytes, files=settings.files)
        self._writer = Writer(
            file, on_done=lambda result, count: self._captured[result].inc(count), clock=clock
        )
        self._writer.start()
        logger.info("requests are kept in %s", file.path)

    def observe(self, answered: Answered) -> None:
        """Keep a request if it is one to keep; on the event loop, so the rest is left to the writer."""
        why = self._choice.why(answered.seconds)
        if why is None:
            return
        if not self._choice.admits():
            self._captured["over_limit"].inc()
            return
        served, request, answer = answered.served, answered.request, answered.answer
        record = Record(
            at=self._now() - answered.seconds,
            why=why,
            request_id=answered.request_id,
            model=served.name,
            version=served.version,
            slot=_slot_of(served, self._state),
            timestamp=request.timestamp,
            content_type=answered.content_type,
            raw=answered.raw,
            scores=answer.scores,
            history_status=answer.history_status,
            history_length=answer.history_length,
            newest_age_s=answer.newest_age_s,
            unknown_ads=answer.unknown_ads,
            stage_s=answer.stage_s,
            seconds=answered.seconds,
        )
        if not self._writer.put(record):
            self._captured["queue_full"].inc()

    async def close(self) -> None:
        """Write what waits, and close the file."""
        await asyncio.to_thread(self._writer.close, CLOSE_S)


def begin_capture(
    settings: CaptureSettings, metrics: Metrics, state: ServiceState, observers: list[Observer]
) -> Capture | None:
    """Begin to keep requests, if that is wanted; raises as `Capture`."""
    if settings.path is None:
        return None
    capture = Capture(settings, metrics, state)
    observers.append(capture.observe)
    return capture


def _slot_of(served: Served, state: ServiceState) -> str:
    """Return the slot that it holds; "" if it was replaced while it answered."""
    slots = {} if state.lineup is None else state.lineup.slots
    return next((slot for slot, held in slots.items() if held is served), "")
