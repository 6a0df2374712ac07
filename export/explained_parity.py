"""Is `explain.onnx` the graph it was made from, and are its weights the model's? Asked of every golden request.

Weights are compared absolutely, and relative to torch's where those exceed 1. As in `parity`, a model that picks may
have a few candidates whose picks hung on rounding; their weights may be anything.

U requests, N candidates, L behaviours.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from contract.closeness import Closeness
from contract.encoder import Tensors
from contract.golden import GoldenRequest
from export.graph import ServedModel
from export.parity import FP32_TOLERANCE, TOGETHER, Gaps, as_torch, require_close, stack
from export.verify import LOGIT, Session

WEIGHT = "weight"


def check_explained(
    served: ServedModel,
    plain: Session,
    explained: Session,
    golden: Sequence[GoldenRequest],
    *,
    gaps: Gaps | None = None,
) -> float:
    """Hold `explain.onnx` to `model.onnx` and to torch, alone and in company.

    Args:
        served: the model.
        plain: `model.onnx`.
        explained: `explain.onnx`.
        golden: requests.
        gaps: of a model that picks; see `parity`.

    Returns:
        The largest difference of a weight from torch's, where no pick hung on rounding.

    Raises:
        LongsightError: log-odds or weights too far apart; names the request.

    """
    found = [explained.run(request.tensors) for request in golden]
    logits = [
        np.abs(outputs[LOGIT] - plain.logits(request.tensors))[0].astype(np.float64)
        for outputs, request in zip(found, golden, strict=True)
    ]
    alone = [outputs[WEIGHT] for outputs in found]
    weights = [
        _differences(weight_1NL[0], torch_weights(served, request.tensors)[0])
        for weight_1NL, request in zip(alone, golden, strict=True)
    ]
    closeness = Closeness(FP32_TOLERANCE, hard_routing=gaps is not None)
    for differences, said in (
        (logits, "log-odds of explain.onnx and model.onnx differ by {}"),
        (weights, "weights of explain.onnx and of torch differ by {}"),
        (_in_company(explained, golden, alone), "weights in a batch and alone differ by {}"),
    ):
        require_close(differences, golden, gaps, closeness, said=said, anywhere=True)
    steady = np.concatenate(weights)
    return float(steady[steady <= FP32_TOLERANCE].max(initial=0.0))


def torch_weights(served: ServedModel, tensors: Tensors) -> NDArray[np.float32]:
    """Return `weight_UNL` of one encoded request, computed by torch."""
    with torch.inference_mode():
        weight_UNL = served.model.behavior_weights(as_torch(served, tensors))
    assert weight_UNL is not None, "asked for the weights of a model without any: this is a bug"
    weight: NDArray[np.float32] = weight_UNL.numpy()
    return weight


def _in_company(
    explained: Session, golden: Sequence[GoldenRequest], alone: Sequence[NDArray[np.float32]]
) -> list[NDArray[np.float64]]:
    """Return how far weights in padded batches are from those alone; padding has to weigh 0."""
    differences = []
    for begin in range(0, len(golden), TOGETHER):
        some = slice(begin, begin + TOGETHER)
        batch_UNL = explained.run(stack([request.tensors for request in golden[some]]))[WEIGHT]
        for row_NL, alone_1NL in zip(batch_UNL, alone[some], strict=True):
            _, count, length = alone_1NL.shape
            expected_NL = np.pad(alone_1NL[0], [(0, 0), (row_NL.shape[1] - length, 0)])
            differences.append(_differences(row_NL[:count], expected_NL))
    return differences


def _differences(weight_NL: NDArray[np.float32], expected_NL: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return each candidate's largest difference, relative where weights are large; NaN where one is no number."""
    if weight_NL.shape != expected_NL.shape:
        return np.full(len(expected_NL), np.inf)
    apart_NL = np.abs(weight_NL.astype(np.float64) - expected_NL)
    largest_N: NDArray[np.float64] = (apart_NL / np.maximum(np.abs(expected_NL), 1.0)).max(axis=1)
    return largest_N
