"""What is asked for and what is answered, in plain data: between `api` and the scorer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from contract.encoder import Tensors
from contract.schema import RawValue

RawId: TypeAlias = str | int
Features: TypeAlias = Mapping[str, RawValue]
HistoryStatus: TypeAlias = Literal["hit", "empty", "timeout", "unavailable"]


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One user and N candidates.

    Attributes:
        user_id: None = anonymous: no history, no profile.
        ad_ids: N ids.
        timestamp: seconds UTC; behaviours from then on are not history.
        deadline_s: reading of the clock after which scoring need not begin; infinite = none.
        context: fields of the request.
        candidate_context: N values per field, None = missing; they win over `context`.
        overrides: N values per ad field that win over the catalogue's; None = the catalogue's.
        explain: behaviours to name for each candidate; 0 = no explanations.

    """

    user_id: RawId | None
    ad_ids: Sequence[RawId]
    timestamp: int
    deadline_s: float
    context: Features = field(default_factory=dict)
    candidate_context: Mapping[str, Sequence[RawValue]] = field(default_factory=dict)
    overrides: Mapping[str, Sequence[RawValue]] = field(default_factory=dict)
    explain: int = 0


@dataclass(slots=True)
class ScoreAnswer:
    """The probabilities of the N candidates, in their order, and what they rest on.

    Attributes:
        scores: float64 `[N]`: sigmoid of the graph's float32 log-odds.
        history_status: `hit`, `empty`, or why there was none: `timeout`, `unavailable`.
        history_length: behaviours used.
        newest_age_s: age of the newest one at the request's time; None without any.
        history_extended: one read was not enough.
        history_cached: at most what was added since the user's last request had to be read.
        history_current: nothing had to be, since the store tells of changes.
        unknown_ads: candidates that the catalogue does not know.
        stage_s: seconds in the stages `history`, `encode`, `queue`, `infer`.
        tensors: what the request was encoded to, for whoever counts.
        explanations: the strongest behaviours of each candidate, if they were asked for.

    """

    scores: NDArray[np.float64]
    history_status: HistoryStatus
    history_length: int
    newest_age_s: int | None
    history_extended: bool
    history_cached: bool
    history_current: bool
    unknown_ads: int
    stage_s: dict[str, float]
    tensors: Tensors
    explanations: list[list[dict[str, RawValue]]] | None = None
