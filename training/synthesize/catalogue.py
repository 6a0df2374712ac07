"""What there is: categories with subcategories, how they relate, and the ads.

C categories, S subcategories of each, A ads. Numbers start at 0 here and at 1 in the files.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from training.synthesize.draws import Draws, Floats, Integers, Purpose, choose
from training.synthesize.world import World


@dataclass(frozen=True)
class Catalogue:
    """Popularities as running totals, relations of categories, and the ads sorted by category."""

    category_totals: Floats
    """Running total of the categories' popularity."""
    subcategory_totals: Floats
    """Running total of the subcategories' popularity inside any category."""
    ad_id: Integers
    ad_category: Integers
    ad_subcategory: Integers
    """Number among all C * S subcategories."""
    ad_quality: Floats
    ad_totals: Floats
    """Running total of the ads' popularity."""
    first_ad: Integers
    """`[C + 1]`: the ads of category c are `first_ad[c] : first_ad[c + 1]`."""

    @classmethod
    def build(cls, world: World, draws: Draws, ads: int) -> "Catalogue":
        """Draw the ads; the first C of them are one of each category."""
        category_C = np.cumsum((np.arange(world.categories) + 1.0) ** -world.category_tail)
        subcategory_S = np.cumsum((np.arange(world.subcategories) + 1.0) ** -world.subcategory_tail)
        ad = np.arange(ads)
        category_A = np.where(
            ad < world.categories, ad, choose(category_C, draws.uniform(Purpose.AD_CATEGORY, ad))
        )
        within_A = choose(subcategory_S, draws.uniform(Purpose.AD_SUBCATEGORY, ad))
        rank_A = np.argsort(np.argsort(draws.uniform(Purpose.AD_RANK, ad)))
        popularity_A = (rank_A + 1.0) ** -world.ad_tail
        order = np.argsort(category_A, kind="stable")
        return cls(
            category_totals=category_C,
            subcategory_totals=subcategory_S,
            ad_id=ad[order],
            ad_category=category_A[order],
            ad_subcategory=(category_A * world.subcategories + within_A)[order],
            ad_quality=world.quality_sd * draws.normal(Purpose.AD_QUALITY, ad)[order],
            ad_totals=np.cumsum(popularity_A[order]),
            first_ad=np.searchsorted(category_A[order], np.arange(world.categories + 1)),
        )

    def ads_of(self, category: Integers, uniform: Floats) -> Integers:
        """Return an ad (its place in the order of this catalogue) of each category, by popularity."""
        total = np.concatenate([[0.0], self.ad_totals])
        low, high = self.first_ad[category], self.first_ad[category + 1]
        wanted = total[low] + uniform * (total[high] - total[low])
        found = np.searchsorted(self.ad_totals, wanted, side="right")
        chosen: Integers = np.clip(found, low, high - 1)
        return chosen

    def frame(self) -> pl.DataFrame:
        """Return `ad_id`, `category`, `subcategory` and `quality`, by ad id."""
        return pl.DataFrame(
            {
                "ad_id": self.ad_id + 1,
                "category": self.ad_category + 1,
                "subcategory": self.ad_subcategory + 1,
                "quality": self.ad_quality,
            }
        ).sort("ad_id")


def complement_of(category: Integers) -> Integers:
    """Return the category that goes with each: 0 and 1, 2 and 3, ..."""
    return category ^ 1


def rival_of(category: Integers, *, categories: int) -> Integers:
    """Return the category that stands against each: half the categories further on."""
    return (category + categories // 2) % categories
