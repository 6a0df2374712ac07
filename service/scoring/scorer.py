"""One request from its ids to its probabilities: history, encoding, graph.

The candidates are encoded while the store looks for the history.
Whatever happens to the store, a request is scored: without a history, and flagged so. A deadline leaves at most half
of the time to the store, so that a slow one degrades an answer instead of preventing it.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from contract import keys
from contract.encoder import Encoder, Tensors
from service.batching.admission import Admission, Ticket
from service.batching.engine import Engine, Job, Run
from service.batching.probe import LoopProbe
from service.errors import DeadlineExceededError, InferenceError, OverloadedError
from service.history.mark import Mark
from service.history.result import History
from service.metrics import Metrics
from service.scoring.encoding import Ads, RequestEncoder
from service.scoring.explain import Explainer, Explanations
from service.scoring.history import HistoryEncoder
from service.scoring.inputs import InputCounter
from service.scoring.kept import KeptHistory
from service.scoring.request import ScoreAnswer, ScoreRequest

ANONYMOUS: Final = 0
LENGTH_SMOOTHING: Final = 1 / 64
LEAST_LOGIT: Final = -700.0  # exp(700) is the largest that float64 holds, and 1e-304 is small enough


class Histories(Protocol):
    """Where histories and profiles come from."""

    def fetch(
        self,
        user_key: int,
        at: int,
        deadline: float | None = None,
        known: Mark | None = None,
        *,
        whole: bool = False,
    ) -> asyncio.Future[History]:
        """Ask for the user's records before second `at`; never fails for a store that fails or is late."""
        ...


class Scorer:
    """Scores requests.

    Args:
        encoder: of the bundle.
        run: the graph of the bundle: one value for all requests, since it tells the engine which may share a call.
        inputs: the tensors that the graph takes.
        explainer: of the bundle; None = it has no explanations, and none may be asked for.
        histories: the store of histories.
        behaviors: encodes them.
        ads: the catalogue.
        engine: runs the graph.
        admission: lets requests in.
        metrics: told of every request.
        clock: seconds; the clock of all deadlines and stage times.
        background: nobody waits for its answers: they run while nothing else waits.

    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        run: Run,
        inputs: tuple[str, ...],
        explainer: Explainer | None,
        histories: Histories,
        behaviors: HistoryEncoder,
        ads: Ads,
        engine: Engine,
        admission: Admission,
        metrics: Metrics,
        clock: Callable[[], float],
        background: bool = False,
    ) -> None:
        self._background = background
        self._encoder = RequestEncoder(encoder, ads)
        self._run_graph = run
        self._inputs = inputs
        self._explainer = explainer
        self._histories = histories
        self._behaviors = behaviors
        self._engine = engine
        self._admission = admission
        self._metrics = metrics
        self._clock = clock
        self._probe = LoopProbe(clock)
        self._typical_length = 1.0
        self._reading = 0  # requests
        self._counter = InputCounter(encoder, metrics)

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        """Return the probabilities of the request's candidates.

        Raises:
            OverloadedError, DeadlineExceededError, InferenceError: as their names say.
            contract.errors.InputError: an id or a value has no key.

        """
        count = len(request.ad_ids)
        admission, entered_s = self._admission, self._clock()
        try:
            ticket = admission.enter(
                count,
                now_s=entered_s,
                expected_s=self._engine.expected_s(self._run_graph, count, self._typical_length),
                deadline_s=request.deadline_s,
            )
        except OverloadedError as error:
            self._metrics.shed[error.reason].inc()
            raise
        try:
            answer = await self._score(request, ticket)
        except BaseException as error:
            admission.leave(ticket)
            self._metrics.queue_candidates.set(admission.inside)
            if isinstance(error, OverloadedError):
                self._metrics.shed[error.reason].inc()
            raise
        admission.leave(ticket)
        stage_s = answer.stage_s
        admission.answered(self._clock() - entered_s - stage_s["queue"] - stage_s["infer"])
        return answer

    def meet(self) -> float:
        """Look at the event loop before a request is read; return how long it may have waited unseen, in seconds.

        Raises:
            LoopBehindError: it can't keep up; the request should be refused unread.

        """
        now_s = self._clock()
        try:
            self._admission.meet(self._probe.lag_s(now_s), now_s)
        except OverloadedError as error:
            self._metrics.shed[error.reason].inc()
            raise
        return self._engine.unseen_s(now_s)

    @property
    def answer_wait_s(self) -> float:
        """How long an answer that is ready may wait for the event loop, while it runs graphs."""
        return self._engine.turn_s

    @property
    def busy(self) -> bool:
        """Whether any request is inside."""
        return self._admission.requests > 0

    def observe(self, answer: ScoreAnswer) -> None:
        """Count what an answer rests on; apart from `score`, so that the caller need not wait for it."""
        metrics = self._metrics
        metrics.queue_candidates.set(self._admission.inside)
        for stage, seconds in answer.stage_s.items():
            metrics.stage_seconds[stage].observe(seconds)
        metrics.history[answer.history_status].inc()
        metrics.history_length.observe(answer.history_length)
        if answer.newest_age_s is not None:
            metrics.history_age_seconds.observe(answer.newest_age_s)
        if answer.history_extended:
            metrics.history_extended.inc()
        if answer.history_cached:
            metrics.history_cached.inc()
        if answer.history_current:
            metrics.history_current.inc()
        if answer.unknown_ads:
            metrics.unknown_ads.inc(answer.unknown_ads)
        metrics.score.observe_many(answer.scores)
        self._counter.count(answer.tensors, has_history=answer.history_length > 0)

    async def _score(self, request: ScoreRequest, ticket: Ticket) -> ScoreAnswer:
        started_s = self._clock()
        user_key = ANONYMOUS if request.user_id is None else keys.key(request.user_id)
        # explanations name behaviours, so they need the records themselves
        kept = None if request.explain else self._behaviors.find(user_key, request.timestamp)
        reading = self._history(request, user_key, started_s, kept)
        self._reading += 1
        try:
            if not reading.done():
                await asyncio.sleep(0)  # in this turn the read is sent, before the CPU is used for more
            early_s = self._clock()
            candidates, unknown = self._encoder.candidates(request)
            early_s = self._clock() - early_s
            history = await reading
        finally:
            self._reading -= 1
            reading.cancel()
        read_s = self._clock()
        if read_s > request.deadline_s:
            self._metrics.shed["deadline"].inc()
            raise DeadlineExceededError("the deadline passed before the scoring began")
        self._look_again(
            request, ticket, length=max(1, self._behaviors.expected_length(history, kept)), now_s=read_s
        )
        seen = self._behaviors.encode(user_key, request.timestamp, history, kept)
        tensors = seen.tensors | self._encoder.user(request, history.profile) | candidates
        encoded_s = self._clock()
        job, explanations = await self._run(request, history, tensors)
        return ScoreAnswer(
            scores=probabilities(job.logit_N),
            history_status=seen.status,
            history_length=seen.length,
            newest_age_s=seen.newest_age_s,
            history_extended=history.extended,
            history_cached=history.follows and seen.status == "hit",
            history_current=history.current and seen.status == "hit",
            unknown_ads=unknown,
            stage_s={
                "history": read_s - started_s - early_s,
                "encode": encoded_s - read_s + early_s,
                "queue": job.started_s - encoded_s,
                "infer": (self._clock() if explanations else job.ended_s) - job.started_s,
            },
            tensors=tensors,
            explanations=explanations,
        )

    def _look_again(self, request: ScoreRequest, ticket: Ticket, *, length: int, now_s: float) -> None:
        """Hold a request to its deadline once its length is known."""
        self._typical_length += (length - self._typical_length) * LENGTH_SMOOTHING
        self._admission.check(
            ticket,
            now_s=now_s,
            expected_s=self._engine.expected_s(self._run_graph, ticket.candidates, length),
            deadline_s=request.deadline_s,
        )

    async def _run(
        self, request: ScoreRequest, history: History, tensors: Tensors
    ) -> tuple[Job, Explanations | None]:
        """Return the job that has run, and explanations if they were asked for: empty ones without a history."""
        count, explanation = len(request.ad_ids), None
        if request.explain and len(history.records):
            assert self._explainer is not None, "explanations of a bundle without any: this is a bug"
            explanation = await self._explainer.explanation(
                history.records, candidates=count, most=request.explain
            )
        job = await self._engine.score(
            {name: tensors[name] for name in self._inputs},
            run=self._run_graph,
            candidates=count,
            length=tensors["history_mask"].shape[1],
            deadline_s=request.deadline_s,
            alone=self._admission.lonely,
            coming=self._reading,
            own_run=None if explanation is None else explanation.run,
            background=self._background,
        )
        if explanation is not None:
            return job, await asyncio.to_thread(explanation.entries)
        return job, [[] for _ in range(count)] if request.explain else None

    def _history(
        self, request: ScoreRequest, user_key: int, now_s: float, kept: KeptHistory | None
    ) -> asyncio.Future[History]:
        deadline_s = None
        if request.deadline_s < math.inf:
            deadline_s = now_s + (request.deadline_s - now_s) / 2
        if kept is None:
            return self._histories.fetch(user_key, request.timestamp, deadline_s)
        old = self._behaviors.is_old(kept)
        return self._histories.fetch(user_key, request.timestamp, deadline_s, kept.mark, whole=old)


def probabilities(logit_N: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the float64 sigmoid of float32 log-odds.

    Raises:
        InferenceError: one of them is no number.

    """
    x_N = logit_N.astype(np.float64)
    total = float(x_N.sum())
    if not math.isfinite(total):  # one NaN or infinity is enough
        raise InferenceError("the model's answer is not a number for some candidates")
    np.maximum(x_N, LEAST_LOGIT, out=x_N)
    scores_N: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-x_N))
    return scores_N
