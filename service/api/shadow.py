"""The shadow: scores some of the champion's requests again, by another bundle, when nobody waits for anything.

Works after the answer, while no request is inside, one request at a time, and for a bounded share of the time: a
request that comes while a run of the shadow is under way would have to wait for a part of it. What comes too fast is
dropped and counted; what is scored is a sample of what comes.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.errors import LongsightError
from contract.schema import Schema
from service.api.answered import Answered
from service.api.state import SHADOW, Served, ServiceState
from service.metrics import Metrics
from service.scoring.request import HistoryStatus, ScoreRequest

WAITING: Final = 16  # requests: more would only be older when their turn comes
DEGRADED: Final[Sequence[HistoryStatus]] = ("timeout", "unavailable")
LEAST: Final = 1e-300  # probability; its log-odds are -690

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Waiting:
    request: ScoreRequest
    scores_N: NDArray[np.float64]  # noqa: N815 - shape suffix


class Shadow:
    """An observer of answers.

    Args:
        state: whose shadow, and whose champion.
        metrics: told of differences, and of what was dropped.
        load: largest share of the time, in (0, 1].
        clock: seconds.

    """

    def __init__(
        self, state: ServiceState, metrics: Metrics, *, load: float, clock: Callable[[], float]
    ) -> None:
        self._state = state
        self._metrics = metrics
        self._rest = 1 / load - 1
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._not_before_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __call__(self, done: Answered) -> None:
        """Take note of an answer, and score one that waits if the time is right."""
        lineup = self._state.lineup
        if lineup is None or SHADOW not in lineup.slots:
            self._waiting.clear()
            return
        if done.served is not lineup.champion or done.answer.history_status in DEGRADED:
            return
        if len(self._waiting) >= WAITING:
            self._metrics.shadow["dropped"].inc()
        else:
            self._waiting.append(_Waiting(done.request, done.answer.scores))
        self._begin()

    async def close(self) -> None:
        """Score no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _begin(self) -> None:
        """Score the one that waits longest, if the time is right; else the next answer asks again."""
        lineup = self._state.lineup
        if lineup is None or SHADOW not in lineup.slots or not self._waiting or self._task is not None:
            return
        if self._closed:  # the engine answers nobody any more, and who still asks it is waited for
            return
        if self._clock() >= self._not_before_s and not lineup.champion.scorer.busy:
            self._task = asyncio.create_task(self._score(lineup.slots[SHADOW]), name="shadow")

    async def _score(self, shadow: Served) -> None:
        began_s = self._clock()
        shadow.inside += 1
        try:
            await self._compare(shadow, self._waiting.popleft())
        finally:
            shadow.inside -= 1
            ended_s = self._clock()
            rest_s = (ended_s - began_s) * self._rest
            self._not_before_s = ended_s + rest_s
            self._task = None
            self._timer = asyncio.get_running_loop().call_later(rest_s, self._begin)

    async def _compare(self, shadow: Served, waiting: _Waiting) -> None:
        try:
            answer = await shadow.shadow_scorer.score(_for(shadow.schema, waiting.request))
        except LongsightError as error:
            self._metrics.shadow["failed"].inc()
            logger.debug("the shadow failed on a request: %s", error)
            return
        if answer.history_status in DEGRADED:
            self._metrics.shadow["failed"].inc()
            return
        self._metrics.shadow["scored"].inc()
        difference_N = np.abs(_log_odds(answer.scores) - _log_odds(waiting.scores_N))
        self._metrics.shadow_score_difference.observe_many(difference_N)


def _for(schema: Schema, request: ScoreRequest) -> ScoreRequest:
    """Return a request as the shadow may be asked it: by its fields, without deadline or explanations."""
    ad, context = ({field.name for field in fields} for fields in (schema.ad, schema.context))
    return replace(
        request,
        deadline_s=float("inf"),
        explain=0,
        overrides={name: values for name, values in request.overrides.items() if name in ad},
        context={name: value for name, value in request.context.items() if name in context},
        candidate_context={
            name: values for name, values in request.candidate_context.items() if name in context
        },
    )


def _log_odds(score_N: NDArray[np.float64]) -> NDArray[np.float64]:
    p_N = np.clip(score_N, LEAST, 1 - 2**-53)
    odds_N: NDArray[np.float64] = np.log(p_N) - np.log1p(-p_N)
    return odds_N
