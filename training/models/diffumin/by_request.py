"""Channels, routing and aggregation in one, request by request: the same sums, trained several times faster.

Autograd would take `[U, c N, L]` to memory and back a dozen times. One request's share of it fits into a core's
cache, is computed there from scores to interests, and only weights are kept for the way back: with logits
x = t s + decay, W their softmax over the kept, V that over all,

    r = W k,  mass = log-sum-exp of x - log n:      dx = W * (dr k^T - <dr, r>) + V * dmass

U requests, P = c N channels of candidate ads, L behaviours, D width.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from training.models.diffumin.routing import first_of_equals
from training.models.masking import MASKED
from training.models.softmax import log_sum_exp
from training.models.threads import side_by_side


def interests_by_request(
    o_UPD: Tensor,
    scale_UP: Tensor,
    k_ULD: Tensor,
    decay_UcL: Tensor,
    lengths: tuple[Tensor, Tensor],
    *,
    channels: int,
    routing: bool,
) -> tuple[Tensor, Tensor]:
    """Return `r_UPD` and `mass_UP` of softmax aggregation; see `aggregation` and `routing`.

    Args:
        o_UPD: channels, channel-major: P = (c, N).
        scale_UP: factors of the scores in exponents.
        k_ULD: behaviours, valid ones right-aligned.
        decay_UcL: added to the exponents.
        lengths: number of behaviours and how many of them pass a channel's filter, each `[U]`.
        channels: c.
        routing: whether a behaviour belongs to one channel only.

    """
    r_UPD, mass_UP = _Interests.apply(o_UPD, scale_UP, k_ULD, decay_UcL, *lengths, channels, routing)  # type: ignore[no-untyped-call]
    return r_UPD, mass_UP


class _Interests(Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - what a Function takes
        ctx: Any,  # noqa: ANN401
        o_UPD: Tensor,
        scale_UP: Tensor,
        k_ULD: Tensor,
        decay_UcL: Tensor,
        count_U: Tensor,
        kept_U: Tensor,
        channels: int,
        routing: bool,  # noqa: FBT001
    ) -> tuple[Tensor, Tensor]:
        r_UPD, mass_UP = torch.zeros_like(o_UPD), torch.zeros_like(scale_UP)
        counts, kepts = count_U.long().tolist(), kept_U.long().tolist()
        weights: list[tuple[Tensor, Tensor] | None] = [None] * len(counts)

        def work(some: slice) -> None:
            for u in range(some.start, some.stop):
                if counts[u]:
                    weights[u] = _forward(
                        o_UPD[u],
                        scale_UP[u],
                        k_ULD[u, -counts[u] :],
                        decay_UcL[u, :, -counts[u] :],
                        kept=kepts[u],
                        routing=routing,
                        to=(r_UPD[u], mass_UP[u]),
                    )

        side_by_side(k_ULD, work)
        ctx.save_for_backward(o_UPD, scale_UP, k_ULD, r_UPD)
        ctx.weights, ctx.channels = weights, channels
        return r_UPD, mass_UP

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dr_UPD: Tensor, dmass_UP: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        o_UPD, scale_UP, k_ULD, r_UPD = ctx.saved_tensors
        dk_ULD = torch.zeros_like(k_ULD)
        ddecay_UcL = k_ULD.new_zeros(len(k_ULD), ctx.channels, k_ULD.shape[1])
        through_UPD = torch.zeros_like(o_UPD)
        scaled_UPD = o_UPD * scale_UP.unsqueeze(-1)
        bias_UP = -(dr_UPD * r_UPD).sum(-1)

        def work(some: slice) -> None:
            for u in range(some.start, some.stop):
                if ctx.weights[u] is not None:
                    weight_Pl, share_Pl = ctx.weights[u]
                    length = weight_Pl.shape[1]
                    k_lD, dk_lD = (x[u, -length:] for x in (k_ULD, dk_ULD))
                    dlogit_Pl = torch.addmm(bias_UP[u].unsqueeze(1), dr_UPD[u], k_lD.t()).mul_(weight_Pl)
                    dlogit_Pl.addcmul_(share_Pl, dmass_UP[u].unsqueeze(1))
                    torch.sum(dlogit_Pl.view(ctx.channels, -1, length), 1, out=ddecay_UcL[u, :, -length:])
                    torch.mm(dlogit_Pl, k_lD, out=through_UPD[u])
                    torch.mm(dlogit_Pl.t(), scaled_UPD[u], out=dk_lD)
                    dk_lD.addmm_(weight_Pl.t(), dr_UPD[u])

        side_by_side(k_ULD, work)
        ctx.weights = None
        to_o_UPD, to_scale_UP = through_UPD * scale_UP.unsqueeze(-1), (through_UPD * o_UPD).sum(-1)
        return to_o_UPD, to_scale_UP, dk_ULD, ddecay_UcL, *[None] * 4


def _forward(
    o_PD: Tensor,
    scale_P: Tensor,
    k_lD: Tensor,
    decay_cl: Tensor,
    *,
    kept: int,
    routing: bool,
    to: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Fill in a request's interests and masses; returns the softmax `[P, l]` over the kept and that over all."""
    r_PD, mass_P = to
    score_Pl = torch.mm(o_PD, k_lD.t())
    channels, length = decay_cl.shape
    place = length - kept
    threshold_P1 = torch.from_numpy(np.partition(score_Pl.numpy(), place, axis=-1)[:, place : place + 1])
    dropped_Pl = score_Pl < threshold_P1
    if routing:
        routed_cNl = first_of_equals(score_Pl.view(channels, -1, length), dim=0)
        dropped_Pl |= ~routed_cNl.view_as(dropped_Pl)
    logit_Pl = score_Pl.mul_(scale_P.unsqueeze(1))
    logit_Pl.view(channels, -1, length).add_(decay_cl.unsqueeze(1))
    share_Pl = torch.softmax(logit_Pl, dim=-1)
    mass_P.copy_(log_sum_exp(logit_Pl.amax(-1), share_Pl) - math.log(length))
    logit_Pl.masked_fill_(dropped_Pl, MASKED)
    weight_Pl = torch.softmax(logit_Pl, dim=-1)
    none_P = logit_Pl.amax(-1) <= MASKED / 2
    if bool(none_P.any()):
        weight_Pl.masked_fill_(none_P.unsqueeze(1), 0.0)
    torch.mm(weight_Pl, k_lD, out=r_PD)
    return weight_Pl, share_Pl
