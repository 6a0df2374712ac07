"""Kept behaviours become one interest per channel.

With kept_lj = 1 where channel j keeps behaviour l, s_lj its score, n the number of the request's behaviours:

    softmax:  w_lj = kept_lj exp(t_j s_lj) / sum_l kept_lj exp(t_j s_lj)
    count:    w_lj = kept_lj / sum_l kept_lj                               (the paper)
    score:    w_lj = kept_lj s_lj / n                                      (the released code, but for n)

    r_j = sum_l w_lj k_l,       mass_j = log sum_l kept_lj exp(t_j s_lj) - log n

The mass tells how much there is to an interest, which normalised weights forget.

U requests, P channels of candidate ads (c N of them), L behaviours, D width.
"""

from typing import Final, NamedTuple

import torch
from torch import Tensor

from training.models.masking import MASKED, HistoryMask

EMPTY_MASS: Final = -5.0
"""Stands for the mass of a channel that keeps nothing: below any that keeps something."""


class Aggregate(NamedTuple):
    """What the channels made of the behaviours."""

    r: Tensor
    """`[U, P, D]` interests; zeros where a channel keeps nothing."""
    mass: Tensor
    """`[U, P]` log-sum-exp of the kept scores, relative to the number of behaviours."""
    weight: Tensor
    """`[U, P, L]` what each behaviour counted; zeros where it isn't kept."""


def aggregate(
    score_UPL: Tensor, scale_UP: Tensor, kept_UPL: Tensor, k_ULD: Tensor, mask: HistoryMask, *, how: str
) -> Aggregate:
    """Return the interests of all channels.

    Args:
        score_UPL: signed scores s.
        scale_UP: factors t of the scores in exponents.
        kept_UPL: 0 or 1.
        k_ULD: behaviours.
        mask: which are valid.
        how: softmax, count or score.

    """
    logit_UPL = score_UPL * scale_UP.unsqueeze(-1) + (1 - kept_UPL) * MASKED
    any_UP = kept_UPL.amax(-1)
    weight_UPL = torch.softmax(logit_UPL, dim=-1) * any_UP.unsqueeze(-1)
    # The largest logit minus the log of the largest weight is the log-sum-exp: no second pass of exponentials.
    log_sum_UP = logit_UPL.amax(-1) - weight_UPL.amax(-1).clamp(min=1e-30).log()
    mass_UP = torch.where(any_UP > 0, log_sum_UP - mask.log_count(), EMPTY_MASS)
    if how == "count":
        weight_UPL = kept_UPL / kept_UPL.sum(-1, keepdim=True).clamp(min=1.0)
    elif how == "score":
        weight_UPL = kept_UPL * score_UPL / mask.count.clamp(min=1.0).unsqueeze(-1)
    return Aggregate(torch.bmm(weight_UPL, k_ULD), mass_UP, weight_UPL)
