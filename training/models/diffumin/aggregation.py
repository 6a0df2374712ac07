"""Kept behaviours become one interest per channel, and all behaviours its mass.

With s_lj the score of behaviour l in channel j, kept_lj = 1 where the channel keeps it, n behaviours in all, and
x_lj = t_j s_lj + decay_j(age of l):

    softmax:  w_lj = kept_lj exp(x_lj) / sum_l kept_lj exp(x_lj)
    count:    w_lj = kept_lj / sum_l kept_lj                               (the paper)
    score:    w_lj = kept_lj s_lj / n                                      (the released code, but for n)

    r_j = sum_l w_lj k_l,       mass_j = log sum_l exp(x_lj) - log n

The mass tells how much there is to an interest, which normalised weights forget. It is of all behaviours: what
a hard choice leaves out of the interest still adds to its strength.

U requests, P channels of candidate ads (c N of them), L behaviours, D width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from training.models.masking import MASKED, HistoryMask
from training.models.softmax import floored_softmax, log_sum_exp


class Aggregate(NamedTuple):
    """What the channels made of the behaviours."""

    r: Tensor
    """`[U, P, D]` interests; zeros where a channel keeps nothing."""
    mass: Tensor
    """`[U, P]` log-sum-exp, relative to the number of behaviours; 0 for an empty history."""
    weight: Tensor
    """`[U, P, L]` what each behaviour counted; zeros where it isn't kept."""


def aggregate(
    score_UPL: Tensor,
    logit_UPL: Tensor,
    kept_UPL: Tensor,
    k_ULD: Tensor,
    mask: HistoryMask,
    *,
    how: str,
) -> Aggregate:
    """Return the interests of all channels.

    Args:
        score_UPL: signed scores s.
        logit_UPL: exponents x.
        kept_UPL: 0 or 1.
        k_ULD: behaviours.
        mask: which are valid.
        how: softmax, count or score.

    """
    every_UPL = logit_UPL + mask.bias().unsqueeze(1)
    share_UPL, highest_UP = floored_softmax(every_UPL)
    mass_UP = (log_sum_exp(highest_UP, share_UPL) - mask.log_count()) * mask.any
    if how == "count":
        weight_UPL = kept_UPL / kept_UPL.sum(-1, keepdim=True).clamp(min=1.0)
    elif how == "score":
        weight_UPL = kept_UPL * score_UPL / mask.count.clamp(min=1.0).unsqueeze(-1)
    else:
        weight_UPL, highest_UP = floored_softmax(logit_UPL + (1 - kept_UPL) * MASKED)
        any_UP1 = (highest_UP > MASKED / 2).float().unsqueeze(-1)
        # what is not kept has next to no weight; where nothing is, all weigh alike
        return Aggregate(torch.bmm(weight_UPL, k_ULD) * any_UP1, mass_UP, weight_UPL * kept_UPL)
    return Aggregate(torch.bmm(weight_UPL, k_ULD), mass_UP, weight_UPL)
