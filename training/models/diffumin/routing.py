"""Which behaviours a channel keeps: those that lean to it most, and most of all to it.

Both choices are hard and carry no gradient. Padding takes part in neither.

U requests, c channels, N candidate ads, L behaviours, P = c N.
"""

import math
from fractions import Fraction
from typing import Final

import numpy as np
import torch
from torch import Tensor

from training.models.masking import MASKED, HistoryMask

FINEST_SHARE: Final = 1_000_000
"""Largest denominator of a share: counts are computed in whole numbers, alike everywhere."""


def first_of_equals(score: Tensor, *, dim: int) -> Tensor:
    """Return, bool, where the largest score along `dim` stands; of equals the first."""
    parts = score.unbind(dim)  # an argmax or amax over so few is several times slower
    best = parts[0]
    for part in parts[1:]:
        best = torch.maximum(best, part)
    found = [part >= best for part in parts]
    taken = found[0]
    for index, part in enumerate(found[1:], start=1):
        found[index] = part & ~taken
        taken = taken | part
    return torch.stack(found, dim=dim)


def kept_count(mask: HistoryMask, share: float) -> Tensor:
    """Return `[U, 1]` int64, how many of a request's behaviours pass a channel's filter: ceil(p n), >= 1."""
    part = _fraction(share)
    count_U1 = (mask.count.long() * part.numerator + (part.denominator - 1)) // part.denominator
    return count_U1.clamp(min=1)


def top_threshold(score_UPL: Tensor, mask: HistoryMask, share: float) -> Tensor:
    """Return `threshold_UP1`, of each row the smallest score that passes: the `kept_count`-th largest valid one.

    One K = ceil(p L) serves all requests of a batch: a request that keeps fewer has as many of its padded
    positions lifted above all scores. Row by row, so the cost stays linear where whole tensors leave the cache.
    """
    part, length = _fraction(share), score_UPL.shape[-1]
    most = (length * part.numerator + (part.denominator - 1)) // part.denominator
    # never more anyway: so that a tracer need not ask for which lengths
    most = torch.sym_min(most, length)  # type: ignore[no-untyped-call]
    padded_UL = 1 - mask.valid
    lifted_UL = padded_UL * (padded_UL.cumsum(-1) <= most - kept_count(mask, share)).float()
    hidden_UPL = score_UPL + (mask.bias() - 2 * MASKED * lifted_UL).unsqueeze(1)
    return torch.topk(hidden_UPL, most, dim=-1, sorted=False).values.amin(-1, keepdim=True)


def selected_threshold(score_UPL: Tensor, mask: HistoryMask, share: float) -> Tensor:
    """Return what `top_threshold` does, by numpy's quickselect: several times faster; on the CPU, not for graphs."""
    scores = score_UPL.detach().float().numpy()
    found = np.full((*scores.shape[:2], 1), -math.inf, dtype=np.float32)
    valid = mask.valid.numpy() > 0
    counts = kept_count(mask, share).squeeze(1).tolist()
    for request, (kept, some_PL) in enumerate(zip(counts, scores, strict=True)):
        those_PL = some_PL if valid[request].all() else some_PL[:, valid[request]]
        if those_PL.shape[1]:
            place = those_PL.shape[1] - kept
            found[request] = np.partition(those_PL, place, axis=-1)[:, place : place + 1]
    return torch.from_numpy(found)


def _threshold(score_UPL: Tensor, mask: HistoryMask, share: float) -> Tensor:
    selects = score_UPL.device.type == "cpu" and not torch.compiler.is_exporting()
    return (selected_threshold if selects else top_threshold)(score_UPL, mask, share)


def _fraction(share: float) -> Fraction:
    return Fraction(share).limit_denominator(FINEST_SHARE)


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
    threshold_UP1 = _threshold(score_UPL, mask, share)
    kept_UcNL = torch.unflatten(score_UPL >= threshold_UP1, 1, score_UcNL.shape[1:3])
    if routing:
        kept_UcNL = kept_UcNL & first_of_equals(score_UcNL, dim=1)
    return (kept_UcNL & (mask.valid > 0)[:, None, None, :]).float()


def gaps(score_UcNL: Tensor, mask: HistoryMask, share: float, *, routing: bool = True) -> Tensor:
    """Return `gap_UN`: by how little scores would have to change for a candidate to keep other behaviours.

    The least distance between a behaviour's best and second channel, and between the last score that passes a
    channel's filter and the next below it. Infinite where nothing could change.
    """
    score_UPL = score_UcNL.flatten(1, 2)
    threshold_UP1 = _threshold(score_UPL, mask, share)
    lower_UPL = (score_UPL < threshold_UP1) & (mask.valid.unsqueeze(1) > 0)
    below_UPL = torch.where(lower_UPL, score_UPL, -math.inf)
    gap_UP = (threshold_UP1 - below_UPL.amax(-1, keepdim=True)).squeeze(-1)
    gap_UN = torch.unflatten(gap_UP, 1, score_UcNL.shape[1:3]).amin(1)
    if routing and score_UcNL.shape[1] > 1:
        best_UNL = score_UcNL.topk(2, dim=1).values
        apart_UNL = (best_UNL[:, 0] - best_UNL[:, 1]).masked_fill(mask.valid.unsqueeze(1) == 0, math.inf)
        gap_UN = torch.minimum(gap_UN, apart_UNL.amin(-1))
    return torch.where(mask.any > 0, gap_UN, math.inf)
