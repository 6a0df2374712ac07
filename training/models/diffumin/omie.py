"""OMIE, the orthogonal multi-interest extractor: one interest per channel of a candidate ad.

With q the ad, k_l the behaviours, W `[D, c D]`:

    o_1 .. o_c = gram_schmidt(q W),   s_lj = <k_l, o_j>,
    kept_lj = [j = argmax_i s_li] * [s_lj among the top p of s_1j .. s_nj],
    r_j = sum_l w_lj k_l,             w and mass_j from kept and s: see `aggregation`.

The factor t_j of the scores in exponents is s / sqrt(D) times the length that Gram-Schmidt took off o_j: as
dot products with the ad itself would have it, for the part of the ad that is new in channel j. How much a
behaviour of some age counts, whatever it is, each channel learns for itself: decay_j, a number per age bucket.

U requests, N candidate ads, c channels, L behaviours, D width, P = c N.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.models.diffumin.aggregation import Aggregate, aggregate
from training.models.diffumin.by_request import interests_by_request
from training.models.diffumin.channels import Channels
from training.models.diffumin.config import DiffuminConfig
from training.models.diffumin.routing import gaps, keep, kept_count
from training.models.masking import HistoryMask


@dataclass(frozen=True)
class Interests:
    """What the channels of every candidate found."""

    o: Tensor
    """`[U, N, c, D]` channels, orthonormal."""
    r: Tensor
    """`[U, N, c, D]` interests; zeros where a channel keeps nothing."""
    mass: Tensor
    """`[U, N, c]` how much each interest rests on; see `aggregation`."""


class Omie(nn.Module):
    """Candidate ads and behaviours in, interests out."""

    def __init__(self, config: DiffuminConfig, age_rows: int) -> None:
        super().__init__()
        self.config = config
        self.channels = Channels(config.embedding_width, config.channels)
        self.decay = nn.Embedding(age_rows, config.channels, padding_idx=0) if config.decay else None
        if self.decay is not None:
            nn.init.zeros_(self.decay.weight)

    def forward(self, q_UND: Tensor, k_ULD: Tensor, mask: HistoryMask, age_UL: Tensor | None) -> Interests:
        """Return the interests of all candidates.

        Args:
            q_UND: ads.
            k_ULD: behaviours.
            mask: which are valid.
            age_UL: their age buckets; needed with `config.decay`.

        """
        o_UNcD, scale_UP = self._channels(q_UND)
        o_UPD = _by_channel(o_UNcD)
        if self._trains_by_request(o_UPD, mask):
            lengths = (mask.count.squeeze(1), kept_count(mask, self.config.kept_share).squeeze(1))
            r_UPD, mass_UP = interests_by_request(
                o_UPD,
                scale_UP,
                k_ULD,
                self._decay(mask, age_UL),
                lengths,
                channels=self.config.channels,
                routing=self.config.routing,
            )
        else:
            r_UPD, mass_UP, _ = self._aggregate(o_UPD, scale_UP, k_ULD, mask, age_UL)
        return Interests(o_UNcD, self._per_ad(r_UPD), self._per_ad(mass_UP))

    def weights(self, q_UND: Tensor, k_ULD: Tensor, mask: HistoryMask, age_UL: Tensor | None) -> Tensor:
        """Return `weight_UNL`, what each behaviour counted, summed over the channels; takes what `forward` does."""
        o_UNcD, scale_UP = self._channels(q_UND)
        found = self._aggregate(_by_channel(o_UNcD), scale_UP, k_ULD, mask, age_UL)
        return torch.unflatten(found.weight, 1, (self.config.channels, -1)).sum(1)

    def gaps(self, q_UND: Tensor, k_ULD: Tensor, mask: HistoryMask) -> Tensor:
        """Return `gap_UN`: see `routing.gaps`."""
        o_UNcD, _ = self._channels(q_UND)
        score_UPL = torch.bmm(_by_channel(o_UNcD), k_ULD.transpose(1, 2))
        score_UcNL = torch.unflatten(score_UPL, 1, (self.config.channels, -1))
        return gaps(score_UcNL, mask, self.config.kept_share, routing=self.config.routing)

    def _channels(self, q_UND: Tensor) -> tuple[Tensor, Tensor]:
        """Return `o_UNcD` and `scale_UP`."""
        o_UNcD, length_UNc = self.channels(q_UND)
        scale = self.config.logit_scale / math.sqrt(self.config.embedding_width)
        return o_UNcD, _by_channel(length_UNc) * scale

    def _decay(self, mask: HistoryMask, age_UL: Tensor | None) -> Tensor:
        """Return `decay_UcL`."""
        if self.decay is None:
            return mask.valid.new_zeros(len(mask.valid), self.config.channels, mask.valid.shape[1])
        decay_ULc: Tensor = self.decay(age_UL)
        return decay_ULc.transpose(1, 2)

    def _aggregate(
        self, o_UPD: Tensor, scale_UP: Tensor, k_ULD: Tensor, mask: HistoryMask, age_UL: Tensor | None
    ) -> Aggregate:
        config = self.config
        score_UPL = torch.bmm(o_UPD, k_ULD.transpose(1, 2))
        score_UcNL = torch.unflatten(score_UPL, 1, (config.channels, -1))
        kept_UcNL = keep(score_UcNL, mask, config.kept_share, routing=config.routing)
        logit_UPL = score_UPL * scale_UP.unsqueeze(-1)
        if self.decay is not None:
            decay_Uc1L = self._decay(mask, age_UL).unsqueeze(2)
            logit_UPL = (torch.unflatten(logit_UPL, 1, (config.channels, -1)) + decay_Uc1L).flatten(1, 2)
        return aggregate(score_UPL, logit_UPL, kept_UcNL.flatten(1, 2), k_ULD, mask, how=config.aggregation)

    def _trains_by_request(self, o_UPD: Tensor, mask: HistoryMask) -> bool:
        """Tell whether the fast way can be gone: it knows fp32 on the CPU, and histories without holes."""
        if not (self.training and torch.is_grad_enabled() and self.config.aggregation == "softmax"):
            return False
        if o_UPD.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return False
        return bool((mask.valid[:, 1:] >= mask.valid[:, :-1]).all())

    def _per_ad(self, x_UP: Tensor) -> Tensor:
        """Return `[U, (c, N), ...]` as `[U, N, c, ...]`."""
        return torch.unflatten(x_UP, 1, (self.config.channels, -1)).transpose(1, 2)


def _by_channel(x_UNc: Tensor) -> Tensor:
    """Return `[U, N, c, ...]` as `[U, (c, N), ...]`: a channel's scores lie together."""
    return x_UNc.transpose(1, 2).flatten(1, 2)
