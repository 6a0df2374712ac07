"""Does onnxruntime compute what torch computes? Asked of every golden request, alone and in company.

Where a model picks, by argmax or by a threshold, rounding can turn a pick that hung on the last digits. Such scores
are let pass if they are few, near, and shown to be such: torch tells how narrow the picks behind each score were.

U requests, L behaviours, N candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contract.closeness import PICKED_GAP, PICKED_SHARE, Closeness
from contract.encoder import Array, Tensors
from contract.errors import LongsightError
from contract.golden import GoldenRequest, score_differences
from export.graph import ServedModel
from export.verify import LOGIT, Session

FP32_TOLERANCE: Final = 1e-4
"""Largest difference in log-odds between two ways of computing one fp32 score."""

TOGETHER: Final = 4
"""Requests of one mixed batch."""
_NOTHING: Final = "nothing was written; export with the versions of torch and onnxruntime in pyproject.toml"

Gaps = Sequence[NDArray[np.float32]]
"""`[N]` of every golden request: how narrow the narrowest pick behind a score was."""
Differences = Sequence[NDArray[np.float64]]
"""`[N]` of every golden request."""


@dataclass(frozen=True)
class Parity:
    """Differences in log-odds over the golden requests."""

    alone: float
    """The largest of onnxruntime against torch, one request at a time."""
    together: float
    """The largest of a request in a padded batch against the same request alone, both in onnxruntime."""
    turned_picks: int = 0
    """Scores beyond the tolerance in one of the two, since a pick behind them hung on rounding."""
    together_p99: float = 0.0
    """99 % of the differences in batches are at most this."""


def torch_logits(served: ServedModel, tensors: Tensors) -> NDArray[np.float32]:
    """Return `logit_N` of one encoded request, computed by torch."""
    with torch.inference_mode():
        logit_UN, _ = served(as_torch(served, tensors))
    logit: NDArray[np.float32] = logit_UN.numpy()[0]
    return logit


def as_torch(served: ServedModel, tensors: Tensors) -> dict[str, Tensor]:
    """Return what the model takes of an encoded request."""
    return {name: torch.tensor(tensors[name]) for name in served.inputs}  # a copy: some can't be written to


def routing_gaps(served: ServedModel, golden: Sequence[GoldenRequest]) -> Gaps | None:
    """Return the gaps of the golden requests, computed by torch; None for a model that picks nothing."""
    found = []
    for request in golden:
        with torch.inference_mode():
            gap_UN = served.model.routing_gaps(as_torch(served, request.tensors))
        if gap_UN is None:
            return None
        found.append(gap_UN.numpy()[0])
    return found


def check_parity(
    session: Session, golden: Sequence[GoldenRequest], *, tolerance: float, gaps: Gaps | None = None
) -> Parity:
    """Compare the graph with the golden scores (torch's), and batches with single requests.

    Args:
        session: the graph.
        golden: requests with torch's scores.
        tolerance: in log-odds.
        gaps: of a model that picks; its scores are held to `Closeness` with `hard_routing`.

    Raises:
        LongsightError: scores too far apart, or apart without a narrow pick; names the request.

    """
    closeness = Closeness(tolerance, hard_routing=gaps is not None)
    alone = [score_differences(session.logits, request) for request in golden]
    together = company_differences(session, golden)
    require_close(alone, golden, gaps, closeness, said="onnxruntime and torch differ by {} in log-odds")
    require_close(
        together,
        golden,
        gaps,
        closeness,
        said="its scores in a batch and alone differ by {} in log-odds: the graph mixes requests or sees padding",
    )
    pooled = np.concatenate(alone), np.concatenate(together)
    return Parity(
        alone=float(pooled[0].max()),
        together=float(pooled[1].max()),
        turned_picks=int((closeness.beyond(pooled[0]) | closeness.beyond(pooled[1])).sum()),
        together_p99=float(np.quantile(pooled[1], 1 - PICKED_SHARE, method="higher")),
    )


def require_close(
    differences: Differences,
    golden: Sequence[GoldenRequest],
    gaps: Gaps | None,
    closeness: Closeness,
    *,
    said: str,
    anywhere: bool = False,
) -> None:
    """Hold differences to what is allowed: all small, or few, near and explained by a narrow pick.

    Args:
        differences: one for each candidate.
        golden: the requests they are of.
        gaps: of a model that picks.
        closeness: what is allowed.
        said: what differs, `{}` standing for by how much.
        anywhere: a narrow pick explains any difference, however large.

    Raises:
        LongsightError: otherwise; names the request.

    """
    beyond = 0
    for index, (difference_N, request) in enumerate(zip(differences, golden, strict=True)):
        outside_N = closeness.beyond(difference_N)
        beyond += int(outside_N.sum())
        if not outside_N.any():
            continue
        worst = float(difference_N.max())
        place = f"golden request {index} ({request.about}): {said.format(f'{worst:.3g}')}"
        if gaps is None or not (anywhere or worst <= closeness.farthest):
            raise LongsightError(f"{place}, more than {closeness}; {_NOTHING}")
        widest = float(gaps[index][outside_N].max())
        if not widest < PICKED_GAP:
            raise LongsightError(
                f"{place}, more than {closeness.tolerance:g}, where no pick hangs on rounding (nearest: a gap "
                f"of {widest:.3g} in its scores, not below {PICKED_GAP:g}); {_NOTHING}"
            )
    total = sum(difference_N.size for difference_N in differences)
    if beyond > closeness.share * total:
        raise LongsightError(
            f"golden requests: {beyond} of {total} scores are more than {closeness.tolerance:g} apart "
            f"({said.format('so much')}), where picks of at most {closeness.share:.0%} may hang on rounding; "
            f"{_NOTHING}"
        )


def company_differences(session: Session, golden: Sequence[GoldenRequest]) -> list[NDArray[np.float64]]:
    """Return `[N]` differences of every request between a padded batch of a few and alone, both by this graph."""
    differences: list[NDArray[np.float64]] = []
    for begin in range(0, len(golden), TOGETHER):
        differences += _in_company(session, golden[begin : begin + TOGETHER])
    return differences


def stack(requests: Sequence[Tensors]) -> Tensors:
    """Return encoded requests as one batch `[U, L]`, `[U, N]`, `[U]`.

    Shorter histories are padded on the left and fewer candidates on the right, with zeros (mask false).
    """
    return {name: _stacked(name, [request[name] for request in requests]) for name in requests[0]}


def _in_company(session: Session, golden: Sequence[GoldenRequest]) -> list[NDArray[np.float64]]:
    """Return `[N]` differences of every request between a batch of them and alone."""
    batch = session.run(stack([request.tensors for request in golden]))[LOGIT].astype(np.float64)
    return [
        np.abs(row_N[: len(request.logit)] - session.logits(request.tensors)[0])
        for row_N, request in zip(batch, golden, strict=True)
    ]


def _stacked(name: str, parts: list[Array]) -> Array:
    if parts[0].ndim == 1:
        return np.concatenate(parts)
    width = max(part.shape[1] for part in parts)
    batch = np.zeros((len(parts), width), dtype=parts[0].dtype)
    for row, part in enumerate(parts):
        size = part.shape[1]
        columns = slice(width - size, width) if name.startswith("history_") else slice(0, size)
        batch[row, columns] = part[0]
    return batch
