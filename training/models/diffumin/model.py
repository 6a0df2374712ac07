"""DiffuMIN: several interests per candidate ad, found by routing and refined by diffusion.

DiffuMIN, RecSys 2025 (arXiv 2508.15311): OMIE finds an interest r_j per orthogonal channel of the ad (`omie`),
DMIG generates a second view r*_j of each by conditional diffusion (`diffusion`), CMIC ties the two together
(`contrast`), a short-term encoder reads the newest behaviours (`short_term`):

    logit = MLP([q, r, r * q, mass, r*, r* * q, e*, e* * q, other]) + bias of the ad,
    loss = click loss + lambda_1 diffusion loss + lambda_2 contrastive loss.

Where this departs from the paper and its code, and what that does: docs/models/diffumin.md.

U requests, N candidate ads, c channels, L behaviours, D width of an ad or behaviour vector.
"""

from collections.abc import Mapping

from torch import Tensor

from training.models.base import CtrModel, LossTerms
from training.models.diffumin.config import DiffuminConfig
from training.models.diffumin.omie import Interests, Omie
from training.models.embedding import FeatureEmbedding
from training.models.features import FeatureSpec
from training.models.head import AdBias, Head
from training.models.masking import HistoryMask
from training.models.temporal import TemporalCode


class Diffumin(CtrModel):
    """The whole model; variant D where `config.diffusion` is false."""

    def __init__(self, features: FeatureSpec, config: DiffuminConfig, *, history_length: int) -> None:
        super().__init__()
        self.config = config
        self.history_length = history_length
        d = config.embedding_width
        self.embedding = FeatureEmbedding(features, d)
        self.time = TemporalCode(features, config.temporal, d, history_length=history_length)
        self.omie = Omie(config)
        self.ad_bias = AdBias(features) if config.ad_bias else None
        vectors = config.channels
        self.head = Head(
            pair_width=(1 + 2 * vectors) * d + config.channels + self.embedding.candidate_width,
            request_width=1 + self.embedding.request_width,
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
        """Return `logit_UN`; adds the diffusion and the contrastive loss to `losses`."""
        q_UND, k_ULD, mask = self._ads_and_history(inputs)
        interests = self.omie(q_UND, k_ULD, mask)
        found_UNvD = interests.r
        pair = [
            q_UND,
            found_UNvD.flatten(2),
            (found_UNvD * q_UND.unsqueeze(2)).flatten(2),
            interests.mass,
            *self.embedding.candidate(inputs),
        ]
        request = [*self.embedding.request(inputs), mask.log_count()]
        valid_UN = self.embedding.candidate_mask(inputs) if self.training else None
        score_UN: Tensor = self.head(pair, request, valid_UN)
        return score_UN if self.ad_bias is None else score_UN + self.ad_bias(inputs)

    def interests(self, inputs: Mapping[str, Tensor]) -> Interests:
        """Return the channels of every candidate and what each found."""
        found: Interests = self.omie(*self._ads_and_history(inputs))
        return found

    def behavior_weights(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return `weight_UNL`: what each behaviour counted in the aggregation, summed over the channels."""
        return self.omie.weights(*self._ads_and_history(inputs))

    def routing_gaps(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return `gap_UN`, by how little scores would have to change for other behaviours to be kept."""
        return self.omie.gaps(*self._ads_and_history(inputs))

    def _ads_and_history(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, HistoryMask]:
        q_UND = self.time.target(self.embedding.ads(inputs))
        k_ULD = self.time.behaviors(self.embedding.history(inputs), inputs)
        return q_UND, k_ULD, HistoryMask.of(inputs["history_mask"])
