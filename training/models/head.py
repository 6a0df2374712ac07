"""The network on top of the interest vector, and the bias of each ad.

U requests, N candidate ads, P and R widths of what is known per candidate and per request, H hidden units.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from training.models.base import require
from training.models.dice import Activation
from training.models.features import FeatureSpec


class Head(nn.Module):
    """MLP whose first layer is split: x W = pair W_pair + request W_request, the second once per request."""

    def __init__(
        self, pair_width: int, request_width: int, hidden: Sequence[int], *, activation: str
    ) -> None:
        super().__init__()
        require(
            bool(hidden) and min(hidden) > 0, f"head_hidden needs one or more positive sizes, got {hidden}"
        )
        self.from_pair = nn.Linear(pair_width, hidden[0])
        self.from_request = nn.Linear(request_width, hidden[0], bias=False) if request_width else None
        sizes = [*hidden, 1]
        self.activations = nn.ModuleList(Activation(activation, width) for width in hidden)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, pair: list[Tensor], request: list[Tensor], valid_UN: Tensor | None) -> Tensor:
        """Return `logit_UN`.

        Args:
            pair: parts `[U, N, w]` of total width P.
            request: parts `[U, w]` of total width R; empty if R is 0.
            valid_UN: which candidates count in batch statistics; None outside training.

        """
        hidden_UNH: Tensor = self.from_pair(torch.cat(pair, dim=-1))
        if self.from_request is not None:
            hidden_UNH = hidden_UNH + self.from_request(torch.cat(request, dim=-1)).unsqueeze(-2)
        for activation, layer in zip(self.activations, self.layers, strict=True):
            hidden_UNH = layer(activation(hidden_UNH, valid_UN))
        return hidden_UNH.squeeze(-1)


class AdBias(nn.Module):
    """One learned log-odds per ad, from 0; row 0 stays 0."""

    def __init__(self, features: FeatureSpec) -> None:
        super().__init__()
        assert features.identity is not None  # models that own a bias have matched, so categorical, ad fields
        self.input = f"ad_{features.identity.name}"
        self.table = nn.Embedding(features.rows(features.identity), 1, padding_idx=0)
        nn.init.zeros_(self.table.weight)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return `bias_UN`."""
        bias_UN1: Tensor = self.table(inputs[self.input])
        return bias_UN1.squeeze(-1)
