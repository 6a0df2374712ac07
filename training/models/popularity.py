"""Popularity: how often each ad was clicked in training. The baseline that knows neither user nor context.

U requests, N candidate ads, A rows of the ad's vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.models.base import CtrModel, LossTerms, require
from training.models.features import FeatureSpec


@dataclass(frozen=True)
class PopularityConfig:
    """Settings of `Popularity`."""

    prior_impressions: float = 20.0
    """Impressions of average click rate that every ad is given beforehand; > 0."""

    def __post_init__(self) -> None:
        require(self.prior_impressions > 0, f"prior_impressions must be > 0, got {self.prior_impressions}")


class Popularity(CtrModel):
    """logit = log((clicks + m r) / (impressions - clicks + m (1 - r))), r = click rate of all, m = the prior.

    Counts are weighted by 1 / sampling rate. An unknown ad has the log-odds of r.
    """

    log_odds: Tensor

    def __init__(self, features: FeatureSpec, config: PopularityConfig, *, history_length: int) -> None:
        super().__init__()
        identity = features.identity
        require(identity is not None, "popularity needs a categorical ad field, such as ad_id")
        assert identity is not None
        self.config = config
        self.history_length = history_length
        self.inputs = (f"ad_{identity.name}",)
        self.register_buffer("log_odds", torch.zeros(features.rows(identity)))

    def forward(self, inputs: Mapping[str, Tensor], losses: LossTerms | None = None) -> Tensor:
        """Return `logit_UN`."""
        del losses  # it has none of its own
        return torch.nn.functional.embedding(inputs[self.inputs[0]], self.log_odds.unsqueeze(-1)).squeeze(-1)

    def fit_counts(
        self, ad_rows: NDArray[np.int64], clicked: NDArray[np.generic], weights: NDArray[np.float64]
    ) -> None:
        """Count the impressions of training.

        Args:
            ad_rows: `[n]` the rows of `self.inputs[0]`.
            clicked: `[n]` 0 or 1.
            weights: `[n]` 1 / sampling rate.

        """
        size = self.log_odds.numel()
        shown_A = np.bincount(ad_rows, weights=weights, minlength=size)
        clicks_A = np.bincount(
            ad_rows, weights=weights * np.asarray(clicked, dtype=np.float64), minlength=size
        )
        # One click and one miss beforehand: a log of nothing but clicks, or of nothing, still has finite odds.
        rate = (clicks_A.sum() + 1) / (shown_A.sum() + 2)
        prior = self.config.prior_impressions
        odds_A = (clicks_A + prior * rate) / (shown_A - clicks_A + prior * (1 - rate))
        self.log_odds.copy_(torch.from_numpy(np.log(odds_A).astype(np.float32)))
