"""One step in place of the sampler: a network that has learned where its steps end.

The sampler is deterministic (see `diffusion`), so where it ends is a function of a pair's interests r and channels
o. The student is an approximation of that function: all channels of a pair in one pass, where the sampler takes
T' steps for each channel apart,

    x0_j = sqrt(D) r_j / |r_j|,    r*_j = x*_j |r_j| / sqrt(D),
    h_1 = silu([x0_1 .. x0_c, o_1 .. o_c] W_1),    h_k = h_(k-1) + silu(h_(k-1) W_k),    x* = x0 + h_K W.

A channel has a place of its own in W_1 and W: Gram-Schmidt orders the channels, so they are no set. All is matrix
products of P rows, with nothing per channel: the cheapest form there is for a processor.

P any leading shape of (request, ad) pairs, c channels, D width, H hidden units.
"""

import math
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.models.diffumin.config import DiffuminConfig
from training.models.diffumin.diffusion import unit_interests

HIDDEN: Final = (256, 256, 256)
"""One width: a layer is added to the one before it."""


class Student(nn.Module):
    """r* of a pair in one pass; weights come from `training.distill`."""

    def __init__(self, config: DiffuminConfig) -> None:
        super().__init__()
        self.channels = config.channels
        self.norm = math.sqrt(config.embedding_width)
        width = config.channels * config.embedding_width
        sizes = (2 * width, *HIDDEN)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.last = nn.Linear(sizes[-1], width)
        nn.init.zeros_(self.last.weight)  # it begins as "nothing is refined"
        nn.init.zeros_(self.last.bias)

    def forward(self, r_PcD: Tensor, o_PcD: Tensor) -> Tensor:
        """Return the generated interests r*, `[P, c, D]`; zeros where a channel's r is zeros."""
        x0_PcD, size_Pc1 = unit_interests(r_PcD, self.norm)
        return self.refined(x0_PcD, o_PcD) * size_Pc1

    def refined(self, x0_PcD: Tensor, o_PcD: Tensor) -> Tensor:
        """Return x*, `[P, c, D]`, of interests that are scaled already."""
        hidden_PH = torch.cat([x0_PcD.flatten(-2), o_PcD.flatten(-2)], dim=-1)
        first, *others = self.layers
        hidden_PH = functional.silu(first(hidden_PH))
        for layer in others:
            hidden_PH = hidden_PH + functional.silu(layer(hidden_PH))
        return x0_PcD + torch.unflatten(self.last(hidden_PH), -1, (self.channels, -1))
