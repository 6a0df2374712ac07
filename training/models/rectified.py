"""A ReLU network over every pair of a behaviour and an ad, trained without keeping what lies between its layers.

What autograd would keep of `[U, L, N, H]` is written to memory and read back, several times; here blocks that
fit into a core's cache go through all layers forward, and once more before they go backward. The same sums,
in another order.

U requests, L behaviours, N candidate ads, D width of a behaviour or ad, H and G units of two layers, P = N H.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from training.models.threads import side_by_side, slices

BLOCK_BYTES: Final = 4_000_000
"""Of the first layer: measured at 1, 2, 4 and 8 MB, on cores with 2 MB of second-level cache each."""

_mask_by = torch.ops.aten.threshold_backward.grad_input


@dataclass(frozen=True)
class FirstLayer:
    """The first layer, different for each ad: `k (shared + diag(q) product) + bias`."""

    ads: Tensor
    """`[U, N, D]`"""
    bias: Tensor
    """`[U, N, H]`"""
    shared: Tensor
    """`[D, H]`"""
    product: Tensor
    """`[D, H]`"""

    def per_ad(self, some: slice) -> Tensor:
        """Return its matrices `[u, D, P]` for some requests."""
        q_uDN1 = self.ads[some].transpose(1, 2).contiguous().unsqueeze(-1)
        return torch.addcmul(self.shared.unsqueeze(1), q_uDN1, self.product.unsqueeze(1)).flatten(2)


def rectified_pairs(k_ULD: Tensor, first: FirstLayer, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return `out_ULN`, the network's one output for every pair, in float32.

    Args:
        k_ULD: behaviours.
        first: the first layer.
        layers: weight `[G, H]` and bias `[G]` of all further layers, the last of one unit.

    """
    flat = [tensor for pair in layers for tensor in pair]
    out_ULN: Tensor = _RectifiedPairs.apply(  # type: ignore[no-untyped-call]
        k_ULD, first.ads, first.bias, first.shared, first.product, *flat
    )
    return out_ULN


class _Network:
    """All layers, and room for one block of every layer's output."""

    def __init__(self, k_ULD: Tensor, first: FirstLayer, flat: Sequence[Tensor]) -> None:
        self.first = first
        self.layers = list(zip(flat[::2], flat[1::2], strict=True))
        self.widths = [weight.shape[1] for weight, _ in self.layers]
        self.candidates = first.ads.shape[1]
        self.width = self.candidates * self.widths[0]
        rows, length = max(1, BLOCK_BYTES // (4 * self.width)), k_ULD.shape[1]
        self._requests = max(1, min(rows // length, len(k_ULD)))
        self.parts = slices(0, length, min(rows, length))
        """Behaviours of a block: all of several requests while they're short, some of one otherwise."""
        self._like = k_ULD
        self._kept = self.room()

    def room(self) -> list[Tensor]:
        """Return room for one block of every layer's output but the last's."""
        pairs = self._requests * self.parts[0].stop * self.candidates
        return [self._like.new_empty(pairs, width) for width in self.widths]

    def requests(self, some: slice) -> list[slice]:
        """Return the requests of each block."""
        return slices(some.start, some.stop, self._requests)

    def forward(self, k_uld: Tensor, bias_u1P: Tensor, per_ad_uDP: Tensor) -> list[Tensor]:
        """Return the output of every layer but the last, `[pairs, units]`; overwritten by the next call."""
        pairs = k_uld.shape[0] * k_uld.shape[1] * self.candidates
        hidden = [kept[:pairs] for kept in self._kept]
        torch.baddbmm(bias_u1P, k_uld, per_ad_uDP, out=hidden[0].view(*k_uld.shape[:2], self.width)).relu_()
        for (before, after), (weight, bias) in zip(pairwise(hidden), self.layers, strict=False):
            torch.addmm(bias, before, weight.t(), out=after).relu_()
        return hidden

    def output(self, last: Tensor) -> Tensor:
        """Return the last layer's output `[pairs]`."""
        weight, bias = self.layers[-1]
        return torch.addmv(bias, last, weight[0])


class _Gradients:
    """Sums of the weights' gradients, and room for one block of their inputs' gradients."""

    def __init__(self, network: _Network) -> None:
        first = network.first
        self._room = network.room()
        self._network = network
        self.layers = [torch.zeros_like(tensor) for pair in network.layers for tensor in pair]
        self.product_and_shared = first.ads.new_zeros(len(first.shared), 2, network.widths[0])
        """`[D, 2, H]`"""

    def backward(self, hidden: list[Tensor], gradient: Tensor) -> Tensor:
        """Add a block's gradients, given that of its output `[pairs]`; returns that of the first layer's sums."""
        network = self._network
        to_weight, to_bias = self.layers[-2:]
        to_weight[0].addmv_(hidden[-1].t(), gradient)
        to_bias.add_(gradient.sum())
        below = self._room[-1][: len(gradient)]
        torch.mul(gradient.unsqueeze(1), network.layers[-1][0], out=below)
        _mask_by(below, hidden[-1], 0, grad_input=below)
        for index in range(len(hidden) - 2, -1, -1):
            above, below = below, self._room[index][: len(gradient)]
            to_weight, to_bias = self.layers[2 * index : 2 * index + 2]
            to_weight.addmm_(above.t(), hidden[index])
            to_bias.add_(above.sum(0))
            torch.mm(above, network.layers[index][0], out=below)
            _mask_by(below, hidden[index], 0, grad_input=below)
        return below

    def first_layer(self, some: slice, to_per_ad_uDP: Tensor) -> Tensor:
        """Add what the gradients of some requests' matrices make of the weights'; returns `[u, N, D]`, the ads'."""
        first = self._network.first
        q_uDN = first.ads[some].transpose(1, 2)
        to_uDNH = to_per_ad_uDP.view(*to_per_ad_uDP.shape[:2], self._network.candidates, -1)
        q_and_one_uD2N = torch.stack([q_uDN, torch.ones_like(q_uDN)], dim=2)
        self.product_and_shared += torch.matmul(q_and_one_uD2N, to_uDNH).sum(0)
        return torch.matmul(to_uDNH, first.product.unsqueeze(-1)).squeeze(-1).transpose(1, 2)


class _RectifiedPairs(Function):
    @staticmethod
    def forward(ctx: Any, k_ULD: Tensor, *given: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(k_ULD, *given)
        out_ULN = k_ULD.new_empty(*k_ULD.shape[:2], given[0].shape[1])
        side_by_side(k_ULD, lambda requests: _forward(requests, k_ULD, given, out_ULN))
        return out_ULN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_ULN: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        k_ULD, *given = ctx.saved_tensors
        to = (torch.empty_like(k_ULD), torch.empty_like(given[0]), torch.empty_like(given[1]))
        sums = side_by_side(k_ULD, lambda requests: _backward(requests, k_ULD, given, gradient_ULN, to))
        to_first_D2H = sum(each.product_and_shared for each in sums)
        assert isinstance(to_first_D2H, Tensor)
        layers = [sum(parts) for parts in zip(*(each.layers for each in sums), strict=True)]
        return *to, to_first_D2H[:, 1], to_first_D2H[:, 0], *layers


def _forward(requests: slice, k_ULD: Tensor, given: Sequence[Tensor], out_ULN: Tensor) -> None:
    """Fill in the output of some requests."""
    first = FirstLayer(*given[:4])
    network = _Network(k_ULD[requests], first, given[4:])
    for u in network.requests(requests):
        bias_u1P, per_ad_uDP = first.bias[u].flatten(1).unsqueeze(1), first.per_ad(u)
        for j in network.parts:
            hidden = network.forward(k_ULD[u, j], bias_u1P, per_ad_uDP)
            out_ULN[u, j] = network.output(hidden[-1]).view_as(out_ULN[u, j])


def _backward(
    requests: slice,
    k_ULD: Tensor,
    given: Sequence[Tensor],
    gradient_ULN: Tensor,
    to: tuple[Tensor, Tensor, Tensor],
) -> _Gradients:
    """Fill in the gradients of some requests' behaviours, ads and biases; returns their sums for the weights."""
    to_k_ULD, to_q_UND, to_bias_UNH = to
    first = FirstLayer(*given[:4])
    network = _Network(k_ULD[requests], first, given[4:])
    sums = _Gradients(network)
    for u in network.requests(requests):
        bias_u1P, per_ad_uDP = first.bias[u].flatten(1).unsqueeze(1), first.per_ad(u)
        to_bias_u1P, to_per_ad_uDP = torch.zeros_like(bias_u1P), torch.zeros_like(per_ad_uDP)
        for j in network.parts:
            hidden = network.forward(k_ULD[u, j], bias_u1P, per_ad_uDP)
            below = sums.backward(hidden, gradient_ULN[u, j].reshape(-1))
            below_ulP = below.view(*k_ULD[u, j].shape[:2], network.width)
            ones_u1l = below_ulP.new_ones(below_ulP.shape[0], 1, below_ulP.shape[1])
            to_bias_u1P.baddbmm_(ones_u1l, below_ulP)
            to_per_ad_uDP.baddbmm_(k_ULD[u, j].transpose(1, 2), below_ulP)
            to_k_ULD[u, j] = torch.bmm(below_ulP, per_ad_uDP.transpose(1, 2))
        to_bias_UNH[u] = to_bias_u1P.view_as(to_bias_UNH[u])
        to_q_UND[u] = sums.first_layer(u, to_per_ad_uDP)
    return sums
