"""DiffuMIN."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from training.models.base import CtrModel
from training.models.diffumin.aggregation import aggregate
from training.models.diffumin.by_request import interests_by_request
from training.models.diffumin.channels import Channels
from training.models.diffumin.config import DiffuminConfig
from training.models.diffumin.routing import keep, kept_count
from training.models.embedding import FeatureEmbedding
from training.models.features import FeatureSpec
from training.models.head import AdBias, Head
from training.models.masking import HistoryMask
from training.models.temporal import TemporalCode


class Diffumin(CtrModel):
    """x."""

    def __init__(self, features: FeatureSpec, config: DiffuminConfig, *, history_length: int) -> None:
        super().__init__()
        self.config = config
        self.history_length = history_length
        d, c = config.embedding_width, config.channels
        self.embedding = FeatureEmbedding(features, d)
        self.time = TemporalCode(features, config.temporal, d, history_length=history_length)
        self.channels = Channels(d, c)
        self.ad_bias = AdBias(features) if config.ad_bias else None
        self.head = Head(
            pair_width=d + (1 + config.products) * c * d + c * config.mass + self.embedding.candidate_width,
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

    def forward(self, inputs: Mapping[str, Tensor], losses=None) -> Tensor:
        """Return `logit_UN`."""
        cfg = self.config
        mask = HistoryMask.of(inputs["history_mask"])
        q_UND = self.time.target(self.embedding.ads(inputs))
        k_ULD = self.time.behaviors(self.embedding.history(inputs), inputs)
        o_UNcD, length_UNc = self.channels(q_UND)
        c, n = cfg.channels, q_UND.shape[1]
        o_UPD = o_UNcD.transpose(1, 2).flatten(1, 2)
        scale = cfg.logit_scale / math.sqrt(cfg.embedding_width)
        scale_UP = (length_UNc * scale).transpose(1, 2).flatten(1, 2)
        if not cfg.length_in_logit:
            scale_UP = torch.full_like(scale_UP, scale)
        count_U1 = kept_count(mask, cfg.kept_share)
        if self.training and cfg.aggregation == "softmax" and o_UPD.device.type == "cpu":
            r_UPD, mass_UP = interests_by_request(
                o_UPD, scale_UP, k_ULD, (mask.count.squeeze(1), count_U1.squeeze(1)), channels=c, routing=cfg.routing
            )
        else:
            score_UPL = torch.bmm(o_UPD, k_ULD.transpose(1, 2))
            kept_UPL = keep(score_UPL.unflatten(1, (c, n)), mask, cfg.kept_share, routing=cfg.routing).flatten(1, 2)
            r_UPD, mass_UP, _ = aggregate(score_UPL, scale_UP, kept_UPL, k_ULD, mask, how=cfg.aggregation)
        r_UNcD = r_UPD.unflatten(1, (c, n)).transpose(1, 2)
        pair = [q_UND, r_UNcD.flatten(2)]
        if cfg.products:
            pair.append((r_UNcD * q_UND.unsqueeze(2)).flatten(2))
        if cfg.mass:
            pair.append(mass_UP.unflatten(1, (c, n)).transpose(1, 2))
        pair += self.embedding.candidate(inputs)
        request = [*self.embedding.request(inputs), mask.log_count()]
        valid_UN = self.embedding.candidate_mask(inputs) if self.training else None
        score_UN: Tensor = self.head(pair, request, valid_UN)
        return score_UN if self.ad_bias is None else score_UN + self.ad_bias(inputs)
