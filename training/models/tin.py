"""TIN, the Temporal Interest Network: attention that sees when a behaviour happened.

Zhou et al., Temporal Interest Network for User Response Prediction, WWW 2024 (models of its section 4):
with p the temporal code of a behaviour or of the target, k~ = k + p, q~ = q + p_target,

    a_j = softmax_j(s <q~, k~_j> / sqrt(D)),    u = sum_j a_j (q~ * k~_j) = q~ * sum_j a_j k~_j.

The last equality is exact and is what is computed: two matrix products and no [N, L, D] tensor. A softmax
forgets how many behaviours agreed with the ad; where people repeat themselves that count matters, so the
head is also given the attention mass log sum_j exp(logit_j), relative to an average behaviour.

U requests, N candidate ads, L behaviours, D width of an ad or behaviour vector.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.models.base import CtrModel, LossTerms, require, require_width
from training.models.embedding import FeatureEmbedding
from training.models.features import FeatureSpec
from training.models.head import AdBias, Head
from training.models.masking import HistoryMask
from training.models.softmax import log_sum_exp
from training.models.temporal import TemporalCode, require_temporal


@dataclass(frozen=True)
class TinConfig:
    """Settings of `Tin`. The paper's literal form is logit_scale = 1, attention_mass = False, ad_bias = False."""

    embedding_width: int = 32
    """D, width of an ad or behaviour vector, all matched fields together."""
    temporal: str = "both"
    """Temporal codes: rank (0 = newest), interval (age bucket), both, none."""
    logit_scale: float = 8.0
    """s, the factor of the attention logits before the softmax (where it starts, if it's learned)."""
    learned_scale: bool = False
    """Learn s (kept positive)."""
    attention_mass: bool = True
    """Give the head the log-sum-exp of the logits and the log of the number of behaviours."""
    released_code: bool = False
    """Leave the product with q~ out of u, as the code the authors released does."""
    target_attention: bool = True
    """Weigh behaviours by the candidate; false = all alike, and no attention mass (an ablation)."""
    target_representation: bool = True
    """Multiply the interest with the candidate; false = the head sees [u, q] alone (an ablation)."""
    ad_bias: bool = True
    """One learned log-odds per ad."""
    head_hidden: tuple[int, ...] = (80, 40)
    """Hidden sizes of the head."""
    head_activation: str = "relu"
    """relu, prelu, sigmoid or dice."""

    def __post_init__(self) -> None:
        require_width(self.embedding_width)
        require(self.logit_scale > 0, f"logit_scale must be > 0, got {self.logit_scale}")
        require_temporal(self.temporal)


class Tin(CtrModel):
    """logit = MLP([u, q, u * q, mass, other]) + bias of the ad, with u as above."""

    def __init__(self, features: FeatureSpec, config: TinConfig, *, history_length: int) -> None:
        super().__init__()
        self.config = config
        self.history_length = history_length
        self.embedding = FeatureEmbedding(features, config.embedding_width)
        self.time = TemporalCode(
            features, config.temporal, config.embedding_width, history_length=history_length
        )
        self.ad_bias = AdBias(features) if config.ad_bias else None
        self.log_scale = (
            nn.Parameter(torch.tensor(math.log(config.logit_scale))) if config.learned_scale else None
        )
        masses = int(config.attention_mass and config.target_attention)
        vectors = 3 if config.target_representation else 2
        self.head = Head(
            pair_width=vectors * config.embedding_width + masses + self.embedding.candidate_width,
            request_width=int(config.attention_mass) + self.embedding.request_width,
            hidden=config.head_hidden,
            activation=config.head_activation,
        )
        self.inputs = (
            *self.embedding.history_inputs,
            *self.time.inputs,
            "history_mask",
            *self.embedding.other_inputs,
        )

    def forward(self, inputs: Mapping[str, Tensor], losses: LossTerms | None = None) -> Tensor:
        """Return `logit_UN`."""
        del losses  # it has none of its own
        q_UND, k_ULD, mask = self._ads_and_history(inputs)
        interest_UND, mass = self.attend(q_UND, k_ULD, mask)
        if self.config.target_representation and not self.config.released_code:
            interest_UND = q_UND * interest_UND
        product = [interest_UND * q_UND] if self.config.target_representation else []
        pair = [interest_UND, q_UND, *product, *self.embedding.candidate(inputs), *mass]
        request = self.embedding.request(inputs)
        if self.config.attention_mass:
            request.append(mask.log_count())
        valid_UN = self.embedding.candidate_mask(inputs) if self.training else None
        score_UN: Tensor = self.head(pair, request, valid_UN)
        return score_UN if self.ad_bias is None else score_UN + self.ad_bias(inputs)

    def behavior_weights(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return `weight_UNL`: a_j, which add up to 1; alike without `target_attention`."""
        q_UND, k_ULD, mask = self._ads_and_history(inputs)
        if not self.config.target_attention:
            return mask.share().unsqueeze(1).expand(-1, q_UND.shape[1], -1)
        weight_UNL = torch.softmax(self.attention_logits(q_UND, k_ULD, mask), dim=-1)
        return weight_UNL * mask.valid.unsqueeze(1)

    def _ads_and_history(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, HistoryMask]:
        q_UND = self.time.target(self.embedding.ads(inputs))
        k_ULD = self.time.behaviors(self.embedding.history(inputs), inputs)
        return q_UND, k_ULD, HistoryMask.of(inputs["history_mask"])

    def attend(self, q_UND: Tensor, k_ULD: Tensor, mask: HistoryMask) -> tuple[Tensor, list[Tensor]]:
        """Return `interest_UND`, the weighted sum of `k_ULD`, and the attention mass where it's wanted."""
        if not self.config.target_attention:
            return mask.mean(k_ULD).expand_as(q_UND), []
        logit_UNL = self.attention_logits(q_UND, k_ULD, mask)
        weight_UNL = torch.softmax(logit_UNL, dim=-1)
        interest_UND = torch.bmm(weight_UNL, k_ULD) * mask.any.unsqueeze(-1)
        mass = [attention_mass(logit_UNL, weight_UNL, mask)] if self.config.attention_mass else []
        return interest_UND, mass

    def attention_logits(self, q_UND: Tensor, k_ULD: Tensor, mask: HistoryMask) -> Tensor:
        """Return `logit_UNL`, hugely negative where padded."""
        root = math.sqrt(self.config.embedding_width)
        scale = self.config.logit_scale if self.log_scale is None else self.log_scale.exp()
        return torch.bmm(q_UND * (scale / root), k_ULD.transpose(1, 2)) + mask.bias().unsqueeze(1)


def attention_mass(logit_UNL: Tensor, weight_UNL: Tensor, mask: HistoryMask) -> Tensor:
    """Return `mass_UN1` = log mean_j exp(logit_j) over the behaviours; 0 for an empty history."""
    log_sum_UN = log_sum_exp(logit_UNL.amax(-1), weight_UNL)
    return ((log_sum_UN - mask.log_count()) * mask.any).unsqueeze(-1)
