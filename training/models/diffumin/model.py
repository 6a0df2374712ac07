"""DiffuMIN: several interests per candidate ad, found by routing and refined by diffusion.

DiffuMIN, RecSys 2025 (arXiv 2508.15311): OMIE finds an interest r_j per orthogonal channel of the ad (`omie`),
DMIG generates a second view r*_j of each by conditional diffusion (`diffusion`), CMIC ties the two together
(`contrast`), a short-term encoder reads the newest behaviours (`short_term`):

    logit = MLP([q, r, r * q, mass, r*, e*, e* * q, other]) + bias of the ad,
    loss = click loss + lambda_1 diffusion loss + lambda_2 contrastive loss.

Where this departs from the paper and its code, and what that does: docs/models/diffumin.md.

U requests, N candidate ads, c channels, L behaviours, D width of an ad or behaviour vector.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from training.models.base import CtrModel, LossTerms
from training.models.diffumin.config import DiffuminConfig
from training.models.diffumin.contrast import Contrast, draw_pairs
from training.models.diffumin.diffusion import Diffusion
from training.models.diffumin.omie import Interests, Omie
from training.models.diffumin.short_term import ShortTerm
from training.models.diffumin.student import Student
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
        self.omie = Omie(config, features.age_rows)
        self.short_term = ShortTerm(config) if config.short_term != "none" else None
        self.diffusion: Diffusion | Student | None = Diffusion(config) if config.diffusion else None
        self.contrast = Contrast(config) if config.diffusion and config.contrast_weight > 0 else None
        self.ad_bias = AdBias(features) if config.ad_bias else None
        vectors = 1 + 2 * (config.channels + (self.short_term is not None))
        if config.diffusion and config.head_interests == "both":
            vectors += config.channels
        self.head = Head(
            pair_width=vectors * d + config.channels + self.embedding.candidate_width,
            request_width=1 + self.embedding.request_width,
            hidden=config.head_hidden,
            activation=config.head_activation,
        )
        age = ("history_age",) if config.decay else self.time.inputs
        self.inputs = (
            *self.embedding.history_inputs,
            *age,
            "history_mask",
            *self.embedding.other_inputs,
        )

    def forward(self, inputs: Mapping[str, Tensor], losses: LossTerms | None = None) -> Tensor:
        """Return `logit_UN`; adds the diffusion and the contrastive loss to `losses`."""
        q_UND, k_ULD, mask, age_UL = self._ads_and_history(inputs)
        interests = self.omie(q_UND, k_ULD, mask, age_UL)
        multiplied, beside = [interests.r], []
        if self.diffusion is not None:
            generated_UNcD = self._generated(interests, losses)
            if losses is not None:
                self._add_losses(interests, generated_UNcD, losses)
            if self.config.head_interests == "generated":
                multiplied = [generated_UNcD]
            else:
                beside = [generated_UNcD.flatten(2)]
        if self.short_term is not None:
            multiplied.append(self.short_term(q_UND, k_ULD, inputs["history_mask"]).unsqueeze(2))
        found_UNvD = torch.cat(multiplied, dim=2)
        pair = [
            q_UND,
            found_UNvD.flatten(2),
            (found_UNvD * q_UND.unsqueeze(2)).flatten(2),
            *beside,
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

    def routing_gaps(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """Return `gap_UN`, by how little scores would have to change for other behaviours to be kept.

        None where all of them are kept by every channel.
        """
        if not self.config.routing and self.config.kept_share == 1:
            return None
        q_UND, k_ULD, mask, _ = self._ads_and_history(inputs)
        return self.omie.gaps(q_UND, k_ULD, mask)

    def _ads_and_history(
        self, inputs: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, HistoryMask, Tensor | None]:
        q_UND = self.time.target(self.embedding.ads(inputs))
        k_ULD = self.time.behaviors(self.embedding.history(inputs), inputs)
        return q_UND, k_ULD, HistoryMask.of(inputs["history_mask"]), inputs.get("history_age")

    def _generated(self, interests: Interests, losses: LossTerms | None) -> Tensor:
        """Return `[U, N, c, D]`, the second view of every interest."""
        assert self.diffusion is not None
        if isinstance(self.diffusion, Student):
            student_UNcD: Tensor = self.diffusion(interests.r, interests.o)
            return student_UNcD
        generator = None if losses is None else losses.generator
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.sampler_gradient):
            generated_UNcD: Tensor = self.diffusion(interests.r, interests.o, generator)
        return generated_UNcD

    def _add_losses(self, interests: Interests, generated_UNcD: Tensor, losses: LossTerms) -> None:
        config = self.config
        assert isinstance(self.diffusion, Diffusion)
        valid = int(losses.valid.sum())
        if not valid:
            return
        place_P = draw_pairs(losses.valid, math.ceil(config.denoised_share * valid), losses.generator)
        r_PcD, o_PcD = (x.flatten(0, 1)[place_P].detach() for x in (interests.r, interests.o))
        loss = self.diffusion.loss(r_PcD, o_PcD, losses.generator)
        losses.terms["diffusion"] = config.diffusion_weight * loss
        if self.contrast is not None:
            place_R = self.contrast.draw(losses.valid, losses.generator)
            r_RcD, generated_RcD = (x.flatten(0, 1)[place_R] for x in (interests.r, generated_UNcD))
            user_R = losses.user[place_R // losses.valid.shape[1]]
            loss = self.contrast(r_RcD, generated_RcD, user_R)
            losses.terms["contrast"] = config.contrast_weight * loss
