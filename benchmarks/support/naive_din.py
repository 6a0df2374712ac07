"""DIN as the paper writes it: the concatenation of four vectors for every pair, then the MLP.

What our graph is compared with: the same weights, in the plain form that a straightforward exporter would write.

U requests, L behaviours, N candidate ads, D width of an ad or behaviour vector.
"""

import copy

import torch
from torch import Tensor

from training.models import CtrModel
from training.models.din import ActivationUnit, Din


class NaiveUnit(ActivationUnit):
    """The activation unit on `[q, k, q - k, s q * k]`, a tensor `[U, L, N, 4D]`."""

    def forward(self, q_UND: Tensor, k_ULD: Tensor, valid_ULN: Tensor | None) -> Tensor:
        """Return `weight_ULN`."""
        shape = (k_ULD.shape[0], k_ULD.shape[1], q_UND.shape[1], self.width)
        q_ULND = q_UND.unsqueeze(1).expand(shape)
        k_ULND = k_ULD.unsqueeze(2).expand(shape)
        parts = [q_ULND, k_ULND, q_ULND - k_ULND, self.product_scale * q_ULND * k_ULND]
        hidden_ULNH = self.first(torch.cat(parts, dim=-1))
        for activation, layer in zip(self.activations, self.layers, strict=True):
            hidden_ULNH = layer(activation(hidden_ULNH, valid_ULN))
        weight_ULN: Tensor = hidden_ULNH.squeeze(-1)
        return weight_ULN


def naive(model: CtrModel) -> CtrModel:
    """Return a copy of a DIN with the naive unit; it holds the same weights."""
    assert isinstance(model, Din)
    plain = copy.deepcopy(model)
    plain.unit.__class__ = NaiveUnit
    return plain
