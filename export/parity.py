"""Does onnxruntime compute what torch computes? Asked of every golden request, alone and in company.

U requests, L behaviours, N candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from contract.encoder import Array, Tensors
from contract.errors import LongsightError
from contract.golden import GoldenRequest, score_difference
from export.graph import ServedModel
from export.verify import LOGIT, Session

FP32_TOLERANCE: Final = 1e-4
"""Largest difference in log-odds between two ways of computing one fp32 score."""

_TOGETHER: Final = 4  # requests of one mixed batch


@dataclass(frozen=True)
class Parity:
    """Largest differences in log-odds over the golden requests."""

    alone: float
    """onnxruntime against torch, one request at a time."""
    together: float
    """A request in a padded batch against the same request alone, both in onnxruntime."""


def torch_logits(served: ServedModel, tensors: Tensors) -> NDArray[np.float32]:
    """Return `logit_N` of one encoded request, computed by torch."""
    with torch.inference_mode():
        logit_UN, _ = served({name: torch.from_numpy(tensors[name]) for name in served.inputs})
    logit: NDArray[np.float32] = logit_UN.numpy()[0]
    return logit


def check_parity(session: Session, golden: Sequence[GoldenRequest], *, tolerance: float) -> Parity:
    """Compare the graph with the golden scores (torch's), and batches with single requests.

    Raises:
        LongsightError: more than `tolerance` apart; names the request.

    """
    alone = 0.0
    for index, request in enumerate(golden):
        difference = score_difference(session.logits, request)
        if not difference <= tolerance:
            raise LongsightError(
                f"golden request {index} ({request.about}): onnxruntime and torch differ by {difference:.3g} in "
                f"log-odds, more than {tolerance:.3g}; nothing was written"
            )
        alone = max(alone, difference)
    together = 0.0
    for begin in range(0, len(golden), _TOGETHER):
        together = max(together, _in_company(session, golden[begin : begin + _TOGETHER]))
    if not together <= tolerance:
        raise LongsightError(
            f"a golden request scores {together:.3g} in log-odds apart in a batch and alone, more than "
            f"{tolerance:.3g}: the graph mixes requests or sees padding; nothing was written"
        )
    return Parity(alone, together)


def stack(requests: Sequence[Tensors]) -> Tensors:
    """Return encoded requests as one batch `[U, L]`, `[U, N]`, `[U]`.

    Shorter histories are padded on the left and fewer candidates on the right, with zeros (mask false).
    """
    return {name: _stacked(name, [request[name] for request in requests]) for name in requests[0]}


def _in_company(session: Session, golden: Sequence[GoldenRequest]) -> float:
    batch = session.run(stack([request.tensors for request in golden]))[LOGIT]
    return max(
        float(np.abs(row_N[: len(request.logit)] - session.logits(request.tensors)[0]).max())
        for row_N, request in zip(batch, golden, strict=True)
    )


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
