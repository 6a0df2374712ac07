"""DIN, the Deep Interest Network: each behaviour weighs as much as the candidate makes it.

Zhou et al., Deep Interest Network for Click-Through Rate Prediction, KDD 2018, section 4.3:

    w_j = unit(q, k_j, q - k_j, q * k_j),    u = sum_j w_j k_j,

without a softmax: the sum of the weights tells how strong the interest is. The unit's first layer splits
exactly, with W = [Wq; Wk; Wd; Wp] the rows for its four inputs:

    [q, k, q - k, s q * k] W = q (Wq + Wd) + k ((Wk - Wd) + s diag(q) Wp),

so an ad is one bias and one D x H matrix, and the keys of a request meet all its ads in one matrix product:
never an [N, L, 4D] tensor.

U requests, N candidate ads, L behaviours, D width of an ad or behaviour vector, H units.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from training.models.base import CtrModel, LossTerms, require, require_width
from training.models.dice import Activation
from training.models.embedding import FeatureEmbedding, padded_table
from training.models.features import FeatureSpec
from training.models.head import AdBias, Head
from training.models.masking import HistoryMask
from training.models.pieces import in_pieces
from training.models.rectified import FirstLayer, rectified_pairs

HIGHEST_THRESHOLD: Final = 8.0
WEIGHT_SCALE: Final = 0.2
BLOCK_BYTES: Final = 16_000_000
"""Of the unit's widest layer: what stays in the caches between the layers."""


@dataclass(frozen=True)
class DinConfig:
    """Settings of `Din`."""

    embedding_width: int = 32
    """D, width of an ad or behaviour vector, all matched fields together."""
    attention_hidden: tuple[int, ...] = (36,)
    """Hidden sizes of the activation unit; its cost is per candidate and behaviour."""
    attention_activation: str = "relu"
    """relu, prelu, sigmoid or dice."""
    softmax: bool = False
    """Normalise the weights over the behaviours, which forgets how many there are."""
    product_scale: float = 16.0
    """Factor of q * k among the unit's inputs: rows start small, and their products would start far smaller."""
    age: bool = False
    """Let the unit see how long ago a behaviour was (its age bucket)."""
    ad_bias: bool = True
    """One learned log-odds per ad."""
    head_hidden: tuple[int, ...] = (80, 40)
    """Hidden sizes of the head."""
    head_activation: str = "relu"
    """relu, prelu, sigmoid or dice."""

    def __post_init__(self) -> None:
        require_width(self.embedding_width)
        require(self.product_scale > 0, f"product_scale must be > 0, got {self.product_scale}")
        sizes = self.attention_hidden
        require(
            bool(sizes) and min(sizes) > 0, f"attention_hidden needs one or more positive sizes, got {sizes}"
        )


class ActivationUnit(nn.Module):
    """The weight of every behaviour for every ad."""

    def __init__(self, width: int, hidden: tuple[int, ...], *, activation: str, product_scale: float) -> None:
        super().__init__()
        self.width = width
        self.product_scale = product_scale
        self.first = nn.Linear(4 * width, hidden[0])
        """Rows in the paper's order: q, k, q - k, q * k (scaled)."""
        sizes = [*hidden, 1]
        self.activations = nn.ModuleList(Activation(activation, h) for h in hidden)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self._widest = max(hidden)
        self._activation = activation
        self._start_as_dot_products()

    def _start_as_dot_products(self) -> None:
        """Let half of the first units begin as <q, k> above rising thresholds, the last layer as their sum.

        A unit drawn at random sees almost nothing of an agreement that is spread over D small products, and
        takes most of an epoch to find it (demo task, 30 % of the trips, L = 100: test GAUC .62 against .69).
        """
        count = max(1, self.first.out_features // 2)
        with torch.no_grad():
            self.first.weight[:count, : 3 * self.width] *= 0.1
            self.first.weight[:count, 3 * self.width :] = 1 / math.sqrt(self.width)
            self.first.bias[:count] = -torch.linspace(0, HIGHEST_THRESHOLD, count)
            last = self.layers[-1]
            if len(self.layers) == 1 and isinstance(last, nn.Linear):
                last.weight[:, :count] = 1 / math.sqrt(count)
                last.bias.zero_()

    def forward(self, q_UND: Tensor, k_ULD: Tensor, valid_ULN: Tensor | None) -> Tensor:
        """Return `weight_ULN`; `valid_ULN` tells what counts in batch statistics, None outside training.

        Training goes through block after block and keeps nothing of the layers in between: computing them
        again is cheaper than the way of `[U, L, N, H]` to memory and back, and memory doesn't grow with it.
        """
        if not self.training:
            return self._in_pieces(q_UND, k_ULD)
        if not torch.is_grad_enabled() or self._activation == "dice":
            return self._weights(q_UND, k_ULD, valid_ULN)
        if self._activation == "relu" and not torch.is_autocast_enabled(q_UND.device.type):
            return self._rectified(q_UND, k_ULD)
        rows = max(1, BLOCK_BYTES // (4 * q_UND.shape[1] * self._widest))
        requests = max(1, rows // k_ULD.shape[1])
        return torch.cat(
            [
                torch.cat([self._again(q, k) for k in torch.split(k_some, rows, dim=1)], dim=1)
                for q, k_some in zip(torch.split(q_UND, requests), torch.split(k_ULD, requests), strict=True)
            ]
        )

    def first_layer(self, q_UND: Tensor, k_ULD: Tensor) -> Tensor:
        """Return `[q, k, q - k, s q * k] W + b` for every pair, `[U, L, N, H]`, by the split above."""
        first = self._split(q_UND)
        bias_U1P = first.bias.flatten(1).unsqueeze(1)
        hidden_ULP = torch.baddbmm(bias_U1P, k_ULD, first.per_ad(slice(None)))
        return torch.unflatten(hidden_ULP, -1, (-1, self.first.out_features))

    def _split(self, q_UND: Tensor) -> FirstLayer:
        wq_HD, wk_HD, wd_HD, wp_HD = torch.split(self.first.weight, self.width, dim=1)
        bias_UNH = torch.nn.functional.linear(q_UND, wq_HD + wd_HD, self.first.bias)
        return FirstLayer(q_UND, bias_UNH, (wk_HD - wd_HD).t(), self.product_scale * wp_HD.t())

    def _weights(self, q_UND: Tensor, k_ULD: Tensor, valid_ULN: Tensor | None) -> Tensor:
        hidden_ULNH = self.first_layer(q_UND, k_ULD)
        for activation, layer in zip(self.activations, self.layers, strict=True):
            hidden_ULNH = layer(activation(hidden_ULNH, valid_ULN))
        weight_ULN: Tensor = hidden_ULNH.squeeze(-1)
        return weight_ULN

    def _in_pieces(self, q_UND: Tensor, k_ULD: Tensor) -> Tensor:
        """Return `weight_ULN` without batch statistics: some ads at a time, their bias as one more row (E = D + 1)."""
        first = self._split(q_UND)
        k1_ULE = torch.cat([k_ULD, torch.ones_like(k_ULD[..., :1])], dim=-1)
        rows_D2H = torch.stack([first.product, first.shared], dim=1)
        q_UDN1 = q_UND.transpose(1, 2).unsqueeze(-1)
        q1_UDN2 = torch.cat([q_UDN1, torch.ones_like(q_UDN1)], dim=-1)

        def weigh(q1_UDn2: Tensor, bias_U1nH: Tensor) -> Tensor:
            per_ad_UEnH = torch.cat([torch.matmul(q1_UDn2, rows_D2H), bias_U1nH], dim=1)
            hidden_ULP = torch.bmm(k1_ULE, per_ad_UEnH.reshape(*k1_ULE.shape[::2], -1))
            hidden_RH = hidden_ULP.reshape(
                -1, self.first.out_features
            )  # R = U L n: a graph adds biases to 2 axes
            for activation, layer in zip(self.activations, self.layers, strict=True):
                hidden_RH = layer(activation(hidden_RH))
            return hidden_RH.reshape(*k_ULD.shape[:2], -1)

        per_ad = (q1_UDN2, first.bias.unsqueeze(1))
        return in_pieces(weigh, per_ad, axis=2, pairs_UL=k_ULD, widest=self._widest)

    def _rectified(self, q_UND: Tensor, k_ULD: Tensor) -> Tensor:
        layers = [(layer.weight, layer.bias) for layer in self.layers if isinstance(layer, nn.Linear)]
        return rectified_pairs(k_ULD, self._split(q_UND), layers)

    def _again(self, q_UND: Tensor, k_ULD: Tensor) -> Tensor:
        weight_ULN: Tensor = checkpoint(
            self._weights, q_UND, k_ULD, None, use_reentrant=False, preserve_rng_state=False
        )
        return weight_ULN


class Din(CtrModel):
    """logit = MLP([u, q, u * q, other]) + bias of the ad, with u as above."""

    def __init__(self, features: FeatureSpec, config: DinConfig, *, history_length: int) -> None:
        super().__init__()
        self.config = config
        self.history_length = history_length
        self.embedding = FeatureEmbedding(features, config.embedding_width)
        self.age = padded_table(features.age_rows, config.embedding_width) if config.age else None
        self.unit = ActivationUnit(
            config.embedding_width,
            config.attention_hidden,
            activation=config.attention_activation,
            product_scale=config.product_scale,
        )
        self.ad_bias = AdBias(features) if config.ad_bias else None
        self.head = Head(
            pair_width=3 * config.embedding_width + self.embedding.candidate_width,
            request_width=self.embedding.request_width,
            hidden=config.head_hidden,
            activation=config.head_activation,
        )
        age = ("history_age",) if config.age else ()
        self.inputs = (*self.embedding.history_inputs, *age, "history_mask", *self.embedding.other_inputs)

    def forward(self, inputs: Mapping[str, Tensor], losses: LossTerms | None = None) -> Tensor:
        """Return `logit_UN`."""
        del losses  # it has none of its own
        q_UND = self.embedding.ads(inputs)
        k_ULD = self.embedding.history(inputs)
        valid_UN = self.embedding.candidate_mask(inputs) if self.training else None
        weight_ULN = self.attention(q_UND, k_ULD, inputs, valid_UN)
        interest_UND = torch.bmm(weight_ULN.transpose(1, 2), k_ULD)
        pair = [interest_UND, q_UND, interest_UND * q_UND, *self.embedding.candidate(inputs)]
        score_UN: Tensor = self.head(pair, self.embedding.request(inputs), valid_UN)
        return score_UN if self.ad_bias is None else score_UN + self.ad_bias(inputs)

    def behavior_weights(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return `weight_UNL`: w_j as it multiplies k_j in u, scale and sign included."""
        q_UND, k_ULD = self.embedding.ads(inputs), self.embedding.history(inputs)
        return self.attention(q_UND, k_ULD, inputs, None).transpose(1, 2)

    def attention(
        self, q_UND: Tensor, k_ULD: Tensor, inputs: Mapping[str, Tensor], valid_UN: Tensor | None
    ) -> Tensor:
        """Return `weight_ULN`, 0 where the behaviour is padding."""
        mask = HistoryMask.of(inputs["history_mask"])
        valid_ULN = None if valid_UN is None else inputs["history_mask"].unsqueeze(-1) & valid_UN.unsqueeze(1)
        seen_ULD = k_ULD if self.age is None else k_ULD + self.age(inputs["history_age"])
        raw_ULN: Tensor = self.unit(q_UND, seen_ULD, valid_ULN)
        if self.config.softmax:
            weight_ULN = torch.softmax(raw_ULN + mask.bias().unsqueeze(-1), dim=1)
            return weight_ULN * mask.valid.unsqueeze(-1)
        # Hundreds of weights add up: without this, u starts far outside the range of the other inputs.
        return raw_ULN * (mask.valid * WEIGHT_SCALE).unsqueeze(-1)
