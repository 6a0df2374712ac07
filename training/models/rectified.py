"""A ReLU network over every pair of a behaviour and an ad, trained without keeping what lies between its layers.

What autograd would keep of `[U, L, N, H]` is written to memory and read back, several times; here blocks that
fit into a core's cache go through all layers forward, and once more before they go backward. The same sums,
in another order.

U requests, L behaviours, N candidate ads, C width of a behaviour with a constant 1 beside it, H and G units of
two layers, P = N H.
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


def rectified_pairs(x_ULC: Tensor, per_ad_UCP: Tensor, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return `out_ULN`, the network's one output for every pair, in float32.

    Args:
        x_ULC: behaviours; a column of ones carries the first layer's bias.
        per_ad_UCP: the first layer, different for each ad.
        layers: weight `[G, H]` and bias `[G]` of all further layers, the last of one unit.

    """
    flat = [tensor for pair in layers for tensor in pair]
    out_ULN: Tensor = _RectifiedPairs.apply(x_ULC, per_ad_UCP, *flat)  # type: ignore[no-untyped-call]
    return out_ULN


class _Network:
    """The layers, and room for one block of every layer's output."""

    def __init__(self, shape: tuple[int, int], per_ad_UCP: Tensor, flat: Sequence[Tensor]) -> None:
        self.layers = list(zip(flat[::2], flat[1::2], strict=True))
        self.widths = [weight.shape[1] for weight, _ in self.layers]
        self.width = per_ad_UCP.shape[-1]
        self.candidates = self.width // self.widths[0]
        self.blocks = list(_blocks(shape, self.width))
        self._like = per_ad_UCP
        self._kept = self._room()

    def _room(self) -> list[Tensor]:
        pairs = max((u.stop - u.start) * (j.stop - j.start) for u, j in self.blocks) * self.candidates
        return [self._like.new_empty(pairs, width) for width in self.widths]

    def forward(self, x_ULC: Tensor, per_ad_UCP: Tensor) -> list[Tensor]:
        """Return the output of every layer but the last, `[pairs, units]`; overwritten by the next call."""
        pairs = x_ULC.shape[0] * x_ULC.shape[1] * self.candidates
        hidden = [kept[:pairs] for kept in self._kept]
        torch.bmm(x_ULC, per_ad_UCP, out=hidden[0].view(*x_ULC.shape[:2], self.width)).relu_()
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
    def forward(ctx: Any, x_ULC: Tensor, per_ad_UCP: Tensor, *flat: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x_ULC, per_ad_UCP, *flat)
        network = _Network((x_ULC.shape[0], x_ULC.shape[1]), per_ad_UCP, flat)
        out_ULN = x_ULC.new_empty(*x_ULC.shape[:2], network.candidates)
        for u, j in network.blocks:
            hidden = network.forward(x_ULC[u, j], per_ad_UCP[u])
            out_ULN[u, j] = network.output(hidden[-1]).view_as(out_ULN[u, j])
        return out_ULN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_ULN: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        x_ULC, per_ad_UCP, *flat = ctx.saved_tensors
        network = _Network((x_ULC.shape[0], x_ULC.shape[1]), per_ad_UCP, flat)
        sums = network.gradients()
        to_x_ULC, to_per_ad_UCP = torch.empty_like(x_ULC), torch.zeros_like(per_ad_UCP)
        for u, j in network.blocks:
            hidden = network.forward(x_ULC[u, j], per_ad_UCP[u])
            first = sums.backward(network, hidden, gradient_ULN[u, j].reshape(-1))
            first_ULP = first.view(*x_ULC[u, j].shape[:2], network.width)
            to_per_ad_UCP[u].baddbmm_(x_ULC[u, j].transpose(1, 2), first_ULP)
            to_x_ULC[u, j] = torch.bmm(first_ULP, per_ad_UCP[u].transpose(1, 2))
        return to_x_ULC, to_per_ad_UCP, *(tensor for pair in sums.layers for tensor in pair)


def _blocks(shape: tuple[int, int], width: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of requests and behaviours: whole requests while they're short, parts of one otherwise."""
    requests, length = shape
    rows = max(1, BLOCK_BYTES // (4 * width))
    some, part = max(1, rows // length), min(rows, length)
    for u in range(0, requests, some):
        for j in range(0, length, part):
            yield slice(u, min(u + some, requests)), slice(j, min(j + part, length))
