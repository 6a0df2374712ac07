"""Which behaviours a channel keeps: those that lean to it most, and most of all to it.

Both choices are hard and carry no gradient. Padding takes part in neither.

U requests, c channels, N candidate ads, L behaviours, P = c N.
"""

import math
from typing import Final

import numpy as np
import torch
from torch import Tensor

from training.models.masking import HistoryMask

BISECTIONS: Final = 26
"""Halvings of the range of a row of scores: what is left is its 2^-26th part, less than float32 resolves."""


def first_of_equals(score: Tensor, *, dim: int) -> Tensor:
    """Return, bool, where the largest score along `dim` stands; of equals the first."""
    parts = list((score >= score.amax(dim, keepdim=True)).unbind(dim))
    taken = parts[0]
    for index, part in enumerate(parts[1:], start=1):  # an argmax over so few is many times slower
        parts[index] = part & ~taken
        taken = taken | part
    return torch.stack(parts, dim=dim)


def kept_count(mask: HistoryMask, share: float) -> Tensor:
    """Return `[U, 1]` float32, how many of a request's behaviours pass a channel's filter: ceil(p n), >= 1."""
    # 0.2 in float32 is a little more than a fifth: without the slack 5 behaviours would keep 2
    return torch.ceil(mask.count * share - 1e-4).clamp(min=1.0)


def bisected_threshold(score_UPL: Tensor, count_U1: Tensor, mask: HistoryMask) -> Tensor:
    """Return `threshold_UP1`: at least `count_U1` valid scores are not below it, and hardly more.

    Compares and counts, nothing else: exports to any version of ONNX and costs less than a sort or TopK.
    """
    valid_U1L = mask.valid.unsqueeze(1)
    bias_U1L = mask.bias().unsqueeze(1)
    high_UP1 = (score_UPL + bias_U1L).amax(-1, keepdim=True)
    low_UP1 = (score_UPL - bias_U1L).amin(-1, keepdim=True)
    hidden_UPL = score_UPL * valid_U1L + bias_U1L
    wanted_U11 = count_U1.unsqueeze(-1)
    for _ in range(BISECTIONS):
        middle_UP1 = (low_UP1 + high_UP1) * 0.5
        enough = (hidden_UPL >= middle_UP1).float().sum(-1, keepdim=True) >= wanted_U11
        low_UP1, high_UP1 = (
            torch.where(enough, middle_UP1, low_UP1),
            torch.where(enough, high_UP1, middle_UP1),
        )
    return low_UP1


def selected_threshold(score_UPL: Tensor, count_U1: Tensor, mask: HistoryMask) -> Tensor:
    """Return the same threshold as the exact k-th largest score, by quickselect; not for graphs."""
    if score_UPL.device.type != "cpu":
        hidden_UPL = score_UPL + mask.bias().unsqueeze(1)
        ordered_UPL = hidden_UPL.sort(-1, descending=True).values
        place_UP1 = (count_U1 - 1).long().unsqueeze(-1).expand(*score_UPL.shape[:2], 1)
        return ordered_UPL.gather(-1, place_UP1)
    scores, length = score_UPL.detach().float().numpy(), score_UPL.shape[-1]
    found = np.empty((*scores.shape[:2], 1), dtype=np.float32)
    valid = mask.valid.numpy() > 0
    counts = count_U1.squeeze(1).long().tolist()
    for request, (kept, some_PL) in enumerate(zip(counts, scores, strict=True)):
        those_PL = some_PL if valid[request].all() else some_PL[:, valid[request]]
        if those_PL.shape[1] == 0:
            found[request] = -math.inf
            continue
        place = those_PL.shape[1] - kept
        found[request] = np.partition(those_PL, place, axis=-1)[:, place : place + 1]
    assert length == scores.shape[-1]
    return torch.from_numpy(found)


def keep(score_UcNL: Tensor, mask: HistoryMask, share: float, *, routing: bool = True) -> Tensor:
    """Return `kept_UcNL`, float32 0 or 1: routed to the channel and among the top share of its column.

    Args:
        score_UcNL: signed scores.
        mask: which behaviours are valid.
        share: p in (0, 1]; the share is of a request's valid behaviours, at least one; ties are kept.
        routing: false leaves the routing out, every channel keeps its own top.

    """
    score_UcNL = score_UcNL.detach()
    score_UPL = score_UcNL.flatten(1, 2)
    exporting = torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
    threshold = bisected_threshold if exporting else selected_threshold
    threshold_UP1 = threshold(score_UPL, kept_count(mask, share), mask)
    kept_UcNL = torch.unflatten(score_UPL >= threshold_UP1, 1, score_UcNL.shape[1:3])
    if routing:
        kept_UcNL = kept_UcNL & first_of_equals(score_UcNL, dim=1)
    return kept_UcNL.float() * mask.valid[:, None, None, :]


def gaps(score_UcNL: Tensor, mask: HistoryMask, share: float, *, routing: bool = True) -> Tensor:
    """Return `gap_UN`: by how little scores would have to change for a candidate to keep other behaviours.

    The least distance between a behaviour's best and second channel, and between the last score that passes a
    channel's filter and the next below it. Infinite where nothing could change.
    """
    score_UPL = score_UcNL.flatten(1, 2)
    threshold_UP1 = selected_threshold(score_UPL, kept_count(mask, share), mask)
    lower_UPL = (score_UPL < threshold_UP1) & (mask.valid.unsqueeze(1) > 0)
    below_UPL = torch.where(lower_UPL, score_UPL, -math.inf)
    gap_UP = (threshold_UP1 - below_UPL.amax(-1, keepdim=True)).squeeze(-1)
    gap_UN = torch.unflatten(gap_UP, 1, score_UcNL.shape[1:3]).amin(1)
    if routing and score_UcNL.shape[1] > 1:
        best_UNL = score_UcNL.topk(2, dim=1).values
        apart_UNL = (best_UNL[:, 0] - best_UNL[:, 1]).masked_fill(mask.valid.unsqueeze(1) == 0, math.inf)
        gap_UN = torch.minimum(gap_UN, apart_UNL.amin(-1))
    return torch.where(mask.any > 0, gap_UN, math.inf)
