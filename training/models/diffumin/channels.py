"""Orthonormal views of an ad: Gram-Schmidt with a positive diagonal, unrolled.

The QR of a linear algebra library leaves the sign of every column free and can't be exported; routing goes by
the sign, so scores would differ between libraries. Gram-Schmidt is QR with a positive diagonal of R, and a
handful of products.

P any leading shape, c channels, D width.
"""

from typing import Final

import torch
from torch import Tensor, nn

EPS: Final = 1e-12
PASSES: Final = 2
"""Projections are taken away twice: once leaves an error of eps times the condition number."""


def gram_schmidt(x_PcD: Tensor) -> tuple[Tensor, Tensor]:
    """Return orthonormal rows that span the given ones in their order, and how long each new part was.

    Rows i of the result are Q's columns and `length_Pc` the diagonal of R in the QR of `x^T` with R_ii > 0. A
    row that adds nothing to those before it (all zeros, say) becomes zeros with length 0.

    Args:
        x_PcD: `[..., c, D]`, float32 or float16 (computed in float32), c <= D.

    Returns:
        `o_PcD` in the type of `x_PcD`, and `length_Pc`, float32.

    """
    rows = x_PcD.float().unbind(-2)
    found: list[Tensor] = []
    lengths: list[Tensor] = []
    for row_PD in rows:
        start = (row_PD * row_PD).sum(-1, keepdim=True)
        rest_PD = row_PD
        for _ in range(PASSES if found else 0):
            for other_PD in found:
                rest_PD = rest_PD - (rest_PD * other_PD).sum(-1, keepdim=True) * other_PD
        square = (rest_PD * rest_PD).sum(-1, keepdim=True)
        # What is left of a dependent row is rounding, and no direction.
        left = (square > start * EPS).float()
        length = (square + EPS * EPS).sqrt()
        found.append(rest_PD / length * left)
        lengths.append(length.squeeze(-1) * left.squeeze(-1))
    return torch.stack(found, dim=-2).to(x_PcD.dtype), torch.stack(lengths, dim=-1)


class Channels(nn.Module):
    """The c channels of an ad: `gram_schmidt(q W)`, W `[D, c D]`; item-only."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.project = nn.Linear(width, channels * width, bias=False)
        with torch.no_grad():
            # The first channel begins as the ad itself: an exact match is found from the first step on.
            self.project.weight[:width] = torch.eye(width)

    def forward(self, q_UND: Tensor) -> tuple[Tensor, Tensor]:
        """Return `o_UNcD` and `length_UNc`."""
        x_UNcD = torch.unflatten(self.project(q_UND), -1, (self.channels, -1))
        return gram_schmidt(x_UNcD)
