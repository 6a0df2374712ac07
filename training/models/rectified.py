"""A ReLU network over every pair of a behaviour and an ad, trained without keeping what lies between its layers.

What autograd would keep of `[U, L, N, H]` is written to memory and read back, several times; here blocks that
fit into a core's cache go through all layers forward, and once more before they go backward. The same sums,
in another order.

U requests, L behaviours, N candidate ads, D width of a behaviour, H and G units of two layers, P = N H.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

BLOCK_BYTES: Final = 2_000_000
"""Of the first layer: half of a core's second-level cache."""

_mask_by = torch.ops.aten.threshold_backward.grad_input


def rectified_pairs(
    k_ULD: Tensor, bias_U1P: Tensor, per_ad_UDP: Tensor, layers: Sequence[tuple[Tensor, Tensor]]
) -> Tensor:
    """Return `out_ULN`, the network's one output for every pair, in float32.

    Args:
        k_ULD: behaviours.
        bias_U1P: of the first layer, different for each ad.
        per_ad_UDP: the first layer, different for each ad.
        layers: weight `[G, H]` and bias `[G]` of all further layers, the last of one unit.

    """
    flat = [tensor for pair in layers for tensor in pair]
    out_ULN: Tensor = _RectifiedPairs.apply(k_ULD, bias_U1P, per_ad_UDP, *flat)  # type: ignore[no-untyped-call]
    return out_ULN


class _Network:
    """The layers, and room for one block of every layer's output."""

    def __init__(self, shape: tuple[int, int], per_ad_UDP: Tensor, flat: Sequence[Tensor]) -> None:
        self.layers = list(zip(flat[::2], flat[1::2], strict=True))
        self.widths = [weight.shape[1] for weight, _ in self.layers]
        self.width = per_ad_UDP.shape[-1]
        self.candidates = self.width // self.widths[0]
        self.blocks = list(_blocks(shape, self.width))
        self._like = per_ad_UDP
        self._kept = self._room()

    def _room(self) -> list[Tensor]:
        pairs = max((u.stop - u.start) * (j.stop - j.start) for u, j in self.blocks) * self.candidates
        return [self._like.new_empty(pairs, width) for width in self.widths]

    def forward(self, k_ULD: Tensor, bias_U1P: Tensor, per_ad_UDP: Tensor) -> list[Tensor]:
        """Return the output of every layer but the last, `[pairs, units]`; overwritten by the next call."""
        pairs = k_ULD.shape[0] * k_ULD.shape[1] * self.candidates
        hidden = [kept[:pairs] for kept in self._kept]
        torch.baddbmm(bias_U1P, k_ULD, per_ad_UDP, out=hidden[0].view(*k_ULD.shape[:2], self.width)).relu_()
        for (before, after), (weight, bias) in zip(pairwise(hidden), self.layers, strict=False):
            torch.addmm(bias, before, weight.t(), out=after).relu_()
        return hidden

    def output(self, last: Tensor) -> Tensor:
        """Return the last layer's output `[pairs]`."""
        weight, bias = self.layers[-1]
        return torch.addmv(bias, last, weight[0])

    def gradients(self) -> "_Gradients":
        return _Gradients(self._room(), [(torch.zeros_like(w), torch.zeros_like(b)) for w, b in self.layers])


class _Gradients:
    """Sums of the layers' gradients, and room for one block of their inputs' gradients."""

    def __init__(self, room: list[Tensor], layers: list[tuple[Tensor, Tensor]]) -> None:
        self._room = room
        self.layers = layers

    def backward(self, network: _Network, hidden: list[Tensor], gradient: Tensor) -> Tensor:
        """Add a block's gradients, given that of its output `[pairs]`; returns that of the first layer's sums."""
        to_weight, to_bias = self.layers[-1]
        to_weight[0].addmv_(hidden[-1].t(), gradient)
        to_bias.add_(gradient.sum())
        below = self._room[-1][: len(gradient)]
        torch.mul(gradient.unsqueeze(1), network.layers[-1][0], out=below)
        _mask_by(below, hidden[-1], 0, grad_input=below)
        for index in range(len(hidden) - 2, -1, -1):
            above, below = below, self._room[index][: len(gradient)]
            to_weight, to_bias = self.layers[index]
            to_weight.addmm_(above.t(), hidden[index])
            to_bias.add_(above.sum(0))
            torch.mm(above, network.layers[index][0], out=below)
            _mask_by(below, hidden[index], 0, grad_input=below)
        return below


class _RectifiedPairs(Function):
    @staticmethod
    def forward(ctx: Any, k_ULD: Tensor, bias_U1P: Tensor, per_ad_UDP: Tensor, *flat: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(k_ULD, bias_U1P, per_ad_UDP, *flat)
        network = _Network((k_ULD.shape[0], k_ULD.shape[1]), per_ad_UDP, flat)
        out_ULN = k_ULD.new_empty(*k_ULD.shape[:2], network.candidates)
        for u, j in network.blocks:
            hidden = network.forward(k_ULD[u, j], bias_U1P[u], per_ad_UDP[u])
            out_ULN[u, j] = network.output(hidden[-1]).view_as(out_ULN[u, j])
        return out_ULN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_ULN: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        k_ULD, bias_U1P, per_ad_UDP, *flat = ctx.saved_tensors
        network = _Network((k_ULD.shape[0], k_ULD.shape[1]), per_ad_UDP, flat)
        sums = network.gradients()
        to_k_ULD = torch.empty_like(k_ULD)
        to_bias_U1P, to_per_ad_UDP = torch.zeros_like(bias_U1P), torch.zeros_like(per_ad_UDP)
        ones_U1L = k_ULD.new_ones(k_ULD.shape[0], 1, k_ULD.shape[1])
        for u, j in network.blocks:
            hidden = network.forward(k_ULD[u, j], bias_U1P[u], per_ad_UDP[u])
            first = sums.backward(network, hidden, gradient_ULN[u, j].reshape(-1))
            first_ULP = first.view(*k_ULD[u, j].shape[:2], network.width)
            to_bias_U1P[u].baddbmm_(ones_U1L[u, :, j], first_ULP)
            to_per_ad_UDP[u].baddbmm_(k_ULD[u, j].transpose(1, 2), first_ULP)
            to_k_ULD[u, j] = torch.bmm(first_ULP, per_ad_UDP[u].transpose(1, 2))
        layers = (tensor for pair in sums.layers for tensor in pair)
        return to_k_ULD, to_bias_U1P, to_per_ad_UDP, *layers


def _blocks(shape: tuple[int, int], width: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of requests and behaviours: whole requests while they're short, parts of one otherwise."""
    requests, length = shape
    rows = max(1, BLOCK_BYTES // (4 * width))
    some, part = max(1, rows // length), min(rows, length)
    for u in range(0, requests, some):
        for j in range(0, length, part):
            yield slice(u, min(u + some, requests)), slice(j, min(j + part, length))
