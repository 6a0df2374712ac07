"""CMIC: a generated interest is to be told from those of other people by the real one it stands for.

With h and g two projection heads, their outputs of length 1, and pairs a, b of (request, ad), for channel i

    loss_ai = -log( exp(h(r_ai) g(r*_ai) / tau) / sum_b exp(h(r_ai) g(r*_bi) / tau) ),

b over a itself and the pairs of other users: a user's other pairs are likely to want the same thing, and
negatives they are not. The mean is over what has a negative at all. Both sides learn, as in the paper: the real
interests through h, the generated ones through g, as far back as the caller leaves them attached.

R drawn pairs, c channels, D width.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.models.diffumin.config import DiffuminConfig

_WIDER: Final = 4


class Contrast(nn.Module):
    """The contrastive loss of one batch's interests."""

    def __init__(self, config: DiffuminConfig) -> None:
        super().__init__()
        self.temperature = config.contrast_temperature
        self.rows = config.contrast_rows
        self.real, self.generated = _head(config.embedding_width), _head(config.embedding_width)

    def draw(self, valid_UN: Tensor, generator: torch.Generator) -> Tensor:
        """Return `[R]` places in the flattened `[U, N]` of at most `contrast_rows` valid pairs, all alike likely."""
        return draw_pairs(valid_UN, self.rows, generator)

    def forward(self, r_RcD: Tensor, generated_RcD: Tensor, user_R: Tensor) -> Tensor:
        """Return the loss, a scalar: 0 where nothing has a negative.

        Empty channels, whose interest is all zeros, are neither compared nor compared with.

        Args:
            r_RcD: real interests; only their directions count.
            generated_RcD: r* of the same pairs.
            user_R: int64, equal for pairs of one user.

        """
        there_cR = (r_RcD != 0).any(-1).T
        with torch.autocast(r_RcD.device.type, enabled=False):  # 20 = 1 / tau is too steep for bfloat16
            real_cRD = _projected(self.real, r_RcD).transpose(0, 1)
            generated_cRD = _projected(self.generated, generated_RcD).transpose(0, 1)
            logit_cRR = torch.bmm(real_cRD, generated_cRD.transpose(1, 2)) / self.temperature
        negative_cRR = there_cR.unsqueeze(1) & (user_R.unsqueeze(1) != user_R)
        own_RR = torch.eye(len(user_R), dtype=torch.bool, device=user_R.device)
        among_cRR = logit_cRR.masked_fill(~(negative_cRR | own_RR), -math.inf)
        loss_cR = among_cRR.logsumexp(-1) - logit_cRR.diagonal(dim1=1, dim2=2)
        compared_cR = (there_cR & negative_cRR.any(-1)).float()
        return (loss_cR * compared_cR).sum() / compared_cR.sum().clamp(min=1.0)


def draw_pairs(valid_UN: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Return the places `[R]` of at most `most` valid pairs in the flattened `[U, N]`, drawn without replacement.

    Args:
        valid_UN: bool, on any device.
        most: largest R.
        generator: on the host.

    """
    place_R = valid_UN.flatten().nonzero().squeeze(-1)
    if len(place_R) <= most:
        return place_R
    drawn_R = torch.randperm(len(place_R), generator=generator)[:most]
    return place_R[drawn_R.sort().values.to(place_R.device)]


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, _WIDER * width), nn.ReLU(), nn.Linear(_WIDER * width, width))


def _projected(head: nn.Sequential, x_RcD: Tensor) -> Tensor:
    """Return what a head makes of the directions of vectors, at length 1; its biases meet numbers of size 1."""
    direction_RcD = functional.normalize(x_RcD.float(), dim=-1) * math.sqrt(x_RcD.shape[-1])
    return functional.normalize(head(direction_RcD), dim=-1)
