"""Padding of histories as plain arithmetic: finite in fp32 and fp16, whatever is padded.

U requests, L behaviours.
"""

from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor

MASKED: Final = -3e4
"""Added to the logit of a padded position: exp of it is 0 in every precision, and fp16 can hold it."""


@dataclass(frozen=True)
class HistoryMask:
    """`history_mask` in the three forms the models need."""

    valid: Tensor
    """`[U, L]` float32, 1 = a behaviour, 0 = padding."""
    count: Tensor
    """`[U, 1]` float32, number of behaviours."""
    any: Tensor
    """`[U, 1]` float32, 1 where there is at least one behaviour."""

    @classmethod
    def of(cls, mask_UL: Tensor) -> Self:
        """Read a bool mask."""
        valid_UL = mask_UL.float()
        count_U1 = valid_UL.sum(-1, keepdim=True)
        return cls(valid_UL, count_U1, count_U1.clamp(max=1.0))

    def log_count(self) -> Tensor:
        """Return the log of the number of behaviours, `[U, 1]`; 0 for none."""
        return self.count.clamp(min=1.0).log()

    def mean(self, k_ULD: Tensor) -> Tensor:
        """Return the mean of the behaviour vectors, `[U, 1, D]`; 0 for an empty history."""
        return torch.bmm(self.share().unsqueeze(1), k_ULD)

    def share(self) -> Tensor:
        """Return the weight of each behaviour in their mean, `[U, L]`: 1 / count, 0 where padded."""
        return self.valid / self.count.clamp(min=1.0)

    def bias(self) -> Tensor:
        """Return what a position adds to its logit, `[U, L]`: 0, or `MASKED` where padded."""
        return self.valid * -MASKED + MASKED
