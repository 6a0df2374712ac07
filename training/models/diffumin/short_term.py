"""The short-term encoder: a small transformer over the newest behaviours with the ad as its last token.

The ad's token is what comes out. A layer is post-norm, as in the diffusion network: with x the tokens,

    x <- LN(x + sum_h softmax(x Q_h (x K_h)^T / sqrt(d)) x V_h O_h),    x <- LN(x + relu(x W_1) W_2).

In `full`, the paper's form, every token sees every other, the ad among them, so behaviours have states of their
own for every ad. In `history_only` behaviours do not see the ad and have one state per request. Nothing reads
the behaviours' states after the last layer, so with one layer the two forms are the same numbers.

What is exact and saved in `full`: behaviours' queries, keys and values of the first layer are those of the request.
Of a behaviour's attention there, only one addend knows the ad: with A the attention among behaviours and Z the
log of its softmax's denominator, attention with the ad is A + sigmoid(q k - Z) (v - A), k and v the ad's.

U requests, N candidate ads, L behaviours, K newest of them, H heads, d width of a head, D = H d.
P any leading shape of histories, M ads that each of those histories meets.
"""

import math
from typing import Final, cast

import torch
from torch import Tensor, nn

from training.models.diffumin.config import DiffuminConfig
from training.models.masking import MASKED
from training.models.softmax import log_sum_exp

NORM_EPS: Final = 1e-6
_WIDER: Final = 3


class ShortTerm(nn.Module):
    """e* of every candidate ad; not for `short_term = "none"`."""

    def __init__(self, config: DiffuminConfig) -> None:
        super().__init__()
        self.newest = config.short_term_length
        self.full = config.short_term == "full"
        self.layers = nn.ModuleList(
            Layer(config.embedding_width, config.short_term_heads) for _ in range(config.short_term_layers)
        )

    def forward(self, q_UND: Tensor, k_ULD: Tensor, mask_UL: Tensor) -> Tensor:
        """Return `e_UND`; of an empty history the ad alone makes it.

        Args:
            q_UND: ads.
            k_ULD: behaviours, right-aligned, newest last.
            mask_UL: bool, or 0 and 1; false = padding.

        """
        x_PKD, valid_UK = newest(k_ULD, mask_UL, self.newest)
        bias_PK = (1 - valid_UK) * MASKED
        ad_PMD = q_UND
        for depth, module in enumerate(self.layers):
            layer = cast("Layer", module)
            last = depth == len(self.layers) - 1
            following_PMD = layer.ads(ad_PMD, x_PKD, bias_PK)
            if self.full and not last:
                x_PMKD = layer.behaviors_with_ads(x_PKD, ad_PMD, bias_PK)
                # From here on every ad has a history of its own: P = (U, N) and M = 1.
                first = depth == 0
                x_PKD = x_PMKD if first else x_PMKD.squeeze(-3)
                bias_PK = bias_PK.unsqueeze(1) if first else bias_PK
                following_PMD = following_PMD.unsqueeze(-2) if first else following_PMD
            elif not last:
                x_PKD = layer.behaviors(x_PKD, bias_PK)
            ad_PMD = following_PMD
        return ad_PMD.squeeze(-2) if ad_PMD.dim() > q_UND.dim() else ad_PMD


class Layer(nn.Module):
    """One layer, computed apart for the ads' tokens and for those of the behaviours."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.after_attention = nn.LayerNorm(width, eps=NORM_EPS)
        self.widen, self.narrow = nn.Linear(width, _WIDER * width), nn.Linear(_WIDER * width, width)
        self.after_network = nn.LayerNorm(width, eps=NORM_EPS)

    def ads(self, ad_PMD: Tensor, x_PKD: Tensor, bias_PK: Tensor) -> Tensor:
        """Return the next `ad_PMD`: each ad sees the behaviours and itself."""
        query_PHMd = self._queries(ad_PMD)
        seen_PHMK = self._scores(query_PHMd, x_PKD, bias_PK)
        own_PHM1 = (query_PHMd * self._split(self.key(ad_PMD))).sum(-1, keepdim=True)
        weight_PHMT = torch.softmax(torch.cat([seen_PHMK, own_PHM1], dim=-1), dim=-1)
        read_PHMd = weight_PHMT[..., :-1] @ self._split(self.value(x_PKD))
        read_PHMd = read_PHMd + weight_PHMT[..., -1:] * self._split(self.value(ad_PMD))
        return self._finish(ad_PMD + self.out(_joined(read_PHMd)))

    def behaviors(self, x_PKD: Tensor, bias_PK: Tensor) -> Tensor:
        """Return the next `x_PKD`: behaviours see each other and no ad."""
        read_PHKd, _ = self._among(x_PKD, bias_PK)
        return self._finish(x_PKD + self.out(_joined(read_PHKd)))

    def behaviors_with_ads(self, x_PKD: Tensor, ad_PMD: Tensor, bias_PK: Tensor) -> Tensor:
        """Return `x_PMKD`: behaviours see each other and one of the ads."""
        read_PHKd, total_PHK1 = self._among(x_PKD, bias_PK)
        seen_PHKM = self._queries(x_PKD) @ self._split(self.key(ad_PMD)).transpose(-1, -2)
        share_PHMK = torch.sigmoid(seen_PHKM - total_PHK1).transpose(-1, -2)
        # O applied before the ads are mixed in: per behaviour and per ad, not per pair of the two.
        read_PHKD, ad_PHMD = self._out_by_head(read_PHKd), self._out_by_head(self._split(self.value(ad_PMD)))
        mixed_PMKD = (x_PKD + read_PHKD.sum(-3)).unsqueeze(-3)
        for head in range(self.heads):
            part_PHKD, part_PHMD = read_PHKD.select(-3, head), ad_PHMD.select(-3, head)
            change_PMKD = part_PHMD.unsqueeze(-2) - part_PHKD.unsqueeze(-3)
            mixed_PMKD = mixed_PMKD + share_PHMK.select(-3, head).unsqueeze(-1) * change_PMKD
        return self._finish(mixed_PMKD)

    def _among(self, x_PKD: Tensor, bias_PK: Tensor) -> tuple[Tensor, Tensor]:
        """Return what behaviours read of each other, `[P, H, K, d]`, and the log-sum-exp of their scores."""
        score_PHKK = self._scores(self._queries(x_PKD), x_PKD, bias_PK)
        weight_PHKK = torch.softmax(score_PHKK, dim=-1)
        total_PHK1 = log_sum_exp(score_PHKK.amax(-1), weight_PHKK).unsqueeze(-1)
        return weight_PHKK @ self._split(self.value(x_PKD)), total_PHK1

    def _queries(self, x_PTD: Tensor) -> Tensor:
        x_PTD = self.query(x_PTD) * math.sqrt(self.heads / x_PTD.shape[-1])
        return self._split(x_PTD)

    def _scores(self, query_PHTd: Tensor, x_PKD: Tensor, bias_PK: Tensor) -> Tensor:
        score_PHTK = query_PHTd @ self._split(self.key(x_PKD)).transpose(-1, -2)
        return score_PHTK + bias_PK[..., None, None, :]

    def _split(self, x_PTD: Tensor) -> Tensor:
        """Return `[P, H, T, d]`, the parts of the heads."""
        return torch.unflatten(x_PTD, -1, (self.heads, -1)).transpose(-2, -3)

    def _out_by_head(self, x_PHTd: Tensor) -> Tensor:
        """Return `[P, H, T, D]`: what each head adds to a token."""
        out_HdD = torch.unflatten(self.out.weight.T, 0, (self.heads, -1))
        return x_PHTd @ out_HdD

    def _finish(self, attended_PTD: Tensor) -> Tensor:
        x_PTD: Tensor = self.after_attention(attended_PTD)
        following_PTD: Tensor = self.after_network(x_PTD + self.narrow(torch.relu(self.widen(x_PTD))))
        return following_PTD


def newest(k_ULD: Tensor, mask_UL: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return the last `most` behaviours `[U, K, D]` and which are valid, `[U, K]` float32 0 or 1.

    K is `most`, in eager code at most L; a graph, whose L is open, gathers `most` and repeats the first, invalid.
    """
    if not torch.compiler.is_exporting():
        return k_ULD[:, -most:], mask_UL[:, -most:].float()
    place_K = torch.arange(-most, 0, device=k_ULD.device) + k_ULD.shape[1]
    there_K = (place_K >= 0).float()
    place_K = place_K.clamp(min=0)
    return k_ULD.index_select(1, place_K), mask_UL.float().index_select(1, place_K) * there_K


def _joined(x_PHTd: Tensor) -> Tensor:
    return x_PHTd.transpose(-2, -3).flatten(-2)
