"""Mean pooling: every behaviour counts the same, whatever the candidate. The baseline with a history.

U requests, N candidate ads, L behaviours, D width of an ad or behaviour vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from training.models.base import CtrModel, LossTerms, require_width
from training.models.embedding import FeatureEmbedding
from training.models.features import FeatureSpec
from training.models.head import AdBias, Head
from training.models.masking import HistoryMask


@dataclass(frozen=True)
class MeanPoolConfig:
    """Settings of `MeanPool`."""

    embedding_width: int = 32
    """D, width of an ad or behaviour vector, all matched fields together."""
    head_hidden: tuple[int, ...] = (80, 40)
    """Hidden sizes of the head."""
    head_activation: str = "relu"
    """relu, prelu, sigmoid or dice."""

    def __post_init__(self) -> None:
        require_width(self.embedding_width)


class MeanPool(CtrModel):
    """u = mean of the behaviour vectors; logit = MLP([u, q, u * q, other]) + bias of the ad."""

    def __init__(self, features: FeatureSpec, config: MeanPoolConfig, *, history_length: int) -> None:
        super().__init__()
        self.config = config
        self.history_length = history_length
        self.embedding = FeatureEmbedding(features, config.embedding_width)
        self.ad_bias = AdBias(features)
        d = config.embedding_width
        self.head = Head(
            pair_width=2 * d + self.embedding.candidate_width,
            request_width=d + self.embedding.request_width,
            hidden=config.head_hidden,
            activation=config.head_activation,
        )
        self.inputs = (*self.embedding.history_inputs, "history_mask", *self.embedding.other_inputs)

    def forward(self, inputs: Mapping[str, Tensor], losses: LossTerms | None = None) -> Tensor:
        """Return `logit_UN`."""
        del losses  # it has none of its own
        mask = HistoryMask.of(inputs["history_mask"])
        q_UND = self.embedding.ads(inputs)
        mean_U1D = mask.mean(self.embedding.history(inputs))
        pair = [q_UND, q_UND * mean_U1D, *self.embedding.candidate(inputs)]
        request = [mean_U1D.squeeze(1), *self.embedding.request(inputs)]
        valid_UN = self.embedding.candidate_mask(inputs) if self.training else None
        score_UN: Tensor = self.head(pair, request, valid_UN) + self.ad_bias(inputs)
        return score_UN

    def behavior_weights(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return `weight_UNL`: 1 / length, the same for every candidate."""
        share_UL = HistoryMask.of(inputs["history_mask"]).share()
        return share_UL.unsqueeze(1).expand(-1, self.embedding.ads(inputs).shape[1], -1)
