"""One request from its ids to its probabilities: history, encoding, graph.

Whatever happens to the store, a request is scored: without a history, and flagged so. A deadline leaves at most half
of the time to the store, so that a slow one degrades an answer instead of preventing it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from contract import keys
from contract.encoder import Encoder, Tensors
from contract.schema import RawValue
from service.batching.admission import Admission
from service.batching.engine import Engine
from service.errors import DeadlineExceededError, InferenceError, OverloadedError
from service.history.result import History
from service.metrics import Metrics
from service.scoring.features import RequestFeatures
from service.scoring.inputs import InputCounter
from service.scoring.request import ScoreAnswer, ScoreRequest

ANONYMOUS = 0


class Histories(Protocol):
    """Where histories and profiles come from."""

    async def fetch(self, user_key: int, at: int, deadline: float | None = None) -> History:
        """Return the user's records before second `at`; never raises for a store that fails or is late."""
        ...


class AdColumns(Protocol):
    """Encoded columns of N ads, and how many of them are unknown."""

    @property
    def tensors(self) -> Tensors:
        """`ad_<field>` [N], the caller's to change."""
        ...

    @property
    def unknown(self) -> int:
        """How many of the N ids the catalogue lacks."""
        ...


class Ads(Protocol):
    """Where ads come from."""

    def columns_for(self, ids: Any) -> AdColumns:  # noqa: ANN401 - a sequence of str | int
        """Return the columns of ads by their ids."""
        ...


class Scorer:
    """Scores requests.

    Args:
        encoder: of the bundle.
        inputs: the tensors that the graph takes.
        histories: the store of histories.
        ads: the catalogue.
        engine: runs the graph.
        admission: lets requests in.
        metrics: told of every request.
        clock: seconds; the clock of all deadlines and stage times.

    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        inputs: tuple[str, ...],
        histories: Histories,
        ads: Ads,
        engine: Engine,
        admission: Admission,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._encoder = encoder
        self._inputs = inputs
        self._histories = histories
        self._ads = ads
        self._engine = engine
        self._admission = admission
        self._metrics = metrics
        self._clock = clock
        self._counter = InputCounter(encoder, metrics)
        self._features = RequestFeatures(encoder)

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        """Return the probabilities of the request's candidates.

        Raises:
            OverloadedError, DeadlineExceededError, InferenceError: as their names say.
            contract.errors.InputError: an id or a value has no key.

        """
        count = len(request.ad_ids)
        try:
            self._admission.enter(count)
        except OverloadedError:
            self._metrics.shed["queue_full"].inc()
            raise
        self._metrics.queue_candidates.set(self._admission.inside)
        try:
            return await self._score(request, count)
        finally:
            self._admission.leave(count)
            self._metrics.queue_candidates.set(self._admission.inside)

    def observe(self, answer: ScoreAnswer) -> None:
        """Count what an answer rests on; apart from `score`, so that the caller need not wait for it."""
        metrics = self._metrics
        for stage, seconds in answer.stage_s.items():
            metrics.stage_seconds[stage].observe(seconds)
        metrics.history[answer.history_status].inc()
        metrics.history_length.observe(answer.history_length)
        if answer.newest_age_s is not None:
            metrics.history_age_seconds.observe(answer.newest_age_s)
        if answer.history_extended:
            metrics.history_extended.inc()
        if answer.unknown_ads:
            metrics.unknown_ads.inc(answer.unknown_ads)
        metrics.score.observe_many(answer.scores)
        self._counter.count(answer.tensors, has_history=answer.history_length > 0)

    async def _score(self, request: ScoreRequest, count: int) -> ScoreAnswer:
        clock = self._clock
        started_s = clock()
        history = await self._history(request, started_s)
        read_s = clock()
        if read_s > request.deadline_s:
            self._metrics.shed["deadline"].inc()
            raise DeadlineExceededError("the deadline passed before the scoring began")
        tensors, unknown = self._encode(request, history, count)
        encoded_s = clock()
        job = await self._engine.score(
            {name: tensors[name] for name in self._inputs},
            candidates=count,
            length=tensors["history_mask"].shape[1],
            deadline_s=request.deadline_s,
            alone=self._admission.requests == 1,
        )
        return ScoreAnswer(
            scores=probabilities(job.logit_N),
            history_status=history.status,
            history_length=len(history.records),
            newest_age_s=history.newest_age_s,
            history_extended=history.extended,
            unknown_ads=unknown,
            stage_s={
                "history": read_s - started_s,
                "encode": encoded_s - read_s,
                "queue": job.started_s - job.submitted_s,
                "infer": job.ended_s - job.started_s,
            },
            tensors=tensors,
        )

    async def _history(self, request: ScoreRequest, now_s: float) -> History:
        user_key = ANONYMOUS if request.user_id is None else keys.key(request.user_id)
        patience_s = (request.deadline_s - now_s) / 2
        deadline_s = None if np.isinf(patience_s) else now_s + patience_s
        return await self._histories.fetch(user_key, request.timestamp, deadline_s)

    def _encode(self, request: ScoreRequest, history: History, count: int) -> tuple[Tensors, int]:
        """Return the tensors of the request, U = 1, and how many of its ads are unknown."""
        encoder = self._encoder
        tensors = encoder.history([history.records], [request.timestamp])
        ads = self._ads.columns_for(request.ad_ids)
        columns = dict(ads.tensors)
        for name, values in request.overrides.items():
            columns[f"ad_{name}"] = self._overridden(name, columns[f"ad_{name}"], values)
        if encoder.schema.user:
            profile: dict[str, RawValue] = {"user_id": request.user_id, **history.profile}
            tensors |= self._features.user(profile)
        columns |= self._features.context(count, request.context, request.candidate_context)
        for name, column_N in columns.items():
            tensors[name] = column_N[None]
        return tensors, ads.unknown

    def _overridden(self, name: str, column_N: NDArray[Any], values: Sequence[RawValue]) -> NDArray[Any]:
        """Return a copy of an ad field's column with the values that are not None in their places."""
        places = [index for index, value in enumerate(values) if value is not None]
        given = self._encoder.pack("ad", name, [values[index] for index in places])
        changed = column_N.copy()
        changed[places] = self._encoder.encode_packed("ad", name, given)
        return changed


def probabilities(logit_N: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the float64 sigmoid of float32 log-odds.

    Raises:
        InferenceError: one of them is no number.

    """
    x_N = logit_N.astype(np.float64)
    if not math.isfinite(x_N.sum()):  # one NaN or infinity is enough
        raise InferenceError("the model's answer is not a number for some candidates")
    with np.errstate(over="ignore"):  # exp(800) is infinite, and 1 / (1 + infinity) is right
        scores_N: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-x_N))
    return scores_N
