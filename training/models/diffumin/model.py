"""DiffuMIN"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from training.models.base import CtrModel
from training.models.diffumin.channels import Channels
from training.models.diffumin.config import DiffuminConfig
from training.models.diffumin.routing import keep
from training.models.embedding import FeatureEmbedding
from training.models.features import FeatureSpec
from training.models.head import AdBias, Head
from training.models.masking import MASKED, HistoryMask
from training.models.temporal import TemporalCode


class Diffumin(CtrModel):
    """x"""

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

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return `logit_UN`."""
        cfg = self.config
        mask = HistoryMask.of(inputs["history_mask"])
        q_UND = self.time.target(self.embedding.ads(inputs))
        k_ULD = self.time.behaviors(self.embedding.history(inputs), inputs)
        o_UNcD, length_UNc = self.channels(q_UND)
        o_UcND = o_UNcD.transpose(1, 2)
        length_UcN = length_UNc.transpose(1, 2)
        c, n = o_UcND.shape[1:3]
        score_UPL = torch.bmm(o_UcND.flatten(1, 2), k_ULD.transpose(1, 2))
        if cfg.routing or cfg.kept_share < 1:
            kept_UPL = keep(score_UPL.unflatten(1, (c, n)), mask, cfg.kept_share, routing=cfg.routing).flatten(1, 2)
        else:
            kept_UPL = mask.valid.unsqueeze(1).expand_as(score_UPL)
        scale = cfg.logit_scale / math.sqrt(cfg.embedding_width)
        if cfg.length_in_logit:
            logit_UPL = score_UPL * (length_UcN.flatten(1, 2) * scale).unsqueeze(-1)
        else:
            logit_UPL = score_UPL * scale
        logit_UPL = logit_UPL - (1 - kept_UPL) * -MASKED
        any_UP1 = kept_UPL.amax(-1, keepdim=True)
        weight_UPL = torch.softmax(logit_UPL, dim=-1)
        r_UPD = torch.bmm(weight_UPL, k_ULD) * any_UP1
        log_sum_UP = logit_UPL.amax(-1) - weight_UPL.amax(-1).log()
        mass_UP = torch.where(any_UP1.squeeze(-1) > 0, log_sum_UP - mask.log_count(), -5.0)
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
