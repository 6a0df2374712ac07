"""The constants of the planted truth. They are part of the formula (docs/synthesize.md): a change is a new world."""

from dataclasses import dataclass
from typing import Final

DAY_S: Final = 86_400


@dataclass(frozen=True)
class World:
    """How people behave, what they are shown and what they click."""

    # time
    start: int = 1_704_067_200  # first second: 2024-01-01T00:00:00Z
    days: int = 84
    request_days: int = 28  # the last of them
    validation_days: float = 3.5
    test_days: float = 3.5

    # what there is
    categories: int = 48
    subcategories: int = 4  # of each category
    category_tail: float = 0.7  # the r-th of them is as popular as r ** -tail
    subcategory_tail: float = 1.0
    ad_tail: float = 0.6
    quality_sd: float = 0.5  # of an ad's own log-odds

    # people
    regions: int = 8
    length_sigma: float = 0.8  # of the log of the history length
    longest: int = 20  # times the mean length
    fewest_interests: int = 3
    most_interests: int = 7
    interest_weight_sd: float = 0.5  # of its log
    drift: float = 3.0
    shortest_period_days: float = 14.0
    longest_period_days: float = 42.0
    session_events: int = 8  # mean
    session_s: int = 1800
    noise_share: float = 0.2
    favourite_share: float = 0.6
    purchase_share: float = 0.08

    # requests
    requests_per_user: int = 10
    candidates: int = 10
    same_share: float = 0.35
    complement_share: float = 0.2
    rival_share: float = 0.2

    # clicks
    base: float = -2.2
    strength: float = 1.0
    unit: float = 1.0
    purchase_weight: float = 3.0
    decay_days: float = 3.0
    same_category: float = 0.5
    complement: float = 0.5
    rival: float = -0.75


WORLD: Final = World()
