"""When a behaviour happened, as a vector added to it.

U requests, N candidate ads, L behaviours, D width of an ad or behaviour vector.
"""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from training.models.base import require
from training.models.embedding import INIT_STD, padded_table
from training.models.features import FeatureSpec

TEMPORAL: Final = ("both", "rank", "interval", "none")


def require_temporal(temporal: str) -> None:
    """Raise InputError unless `temporal` is one of `TEMPORAL`."""
    require(temporal in TEMPORAL, f"temporal {temporal!r} is none of {', '.join(TEMPORAL)}")


class TemporalCode(nn.Module):
    """Codes for how many behaviours ago and how long ago, and one for the target itself."""

    def __init__(self, features: FeatureSpec, temporal: str, width: int, *, history_length: int) -> None:
        super().__init__()
        by_rank, by_interval = temporal in ("both", "rank"), temporal in ("both", "interval")
        # Oldest first, so that the codes of a right-aligned history are the table's tail: a slice, no gather.
        self.rank_LD = nn.Parameter(torch.randn(history_length, width) * INIT_STD) if by_rank else None
        self.interval = padded_table(features.age_rows, width) if by_interval else None
        self.target_D = nn.Parameter(torch.randn(width) * INIT_STD) if by_rank or by_interval else None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Tensors that `behaviors` takes."""
        return () if self.interval is None else ("history_age",)

    def behaviors(self, k_ULD: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return `k_ULD` plus the codes of its positions and ages."""
        if self.rank_LD is not None:
            length = k_ULD.shape[1]
            k_ULD = k_ULD + self.rank_LD[self.rank_LD.shape[0] - length :]
        if self.interval is not None:
            k_ULD = k_ULD + self.interval(inputs["history_age"])
        return k_ULD

    def target(self, q_UND: Tensor) -> Tensor:
        """Return `q_UND` plus the code of the target."""
        return q_UND if self.target_D is None else q_UND + self.target_D
