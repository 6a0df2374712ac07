"""What people are shown: requests at random times, candidates near any of their interests or just popular.

n users of a chunk, r requests, N candidates drawn for each, i impressions that remain.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.synthesize.catalogue import Catalogue, complement_of, rival_of
from training.synthesize.draws import Draws, Integers, Purpose, choose
from training.synthesize.people import People
from training.synthesize.world import DAY_S, World


@dataclass(frozen=True)
class Requests:
    """The requests of a chunk, by user and time, and their impressions."""

    place: Integers
    """Place of the user in the chunk."""
    timestamp: Integers
    number: Integers
    """Unique in the log."""
    request: Integers
    """Place of the impression's request in this chunk."""
    ad: Integers
    """Place of the ad in the catalogue."""
    slot: Integers
    """Which of the request's draws the impression is."""


def draw_requests(world: World, catalogue: Catalogue, draws: Draws, people: People) -> Requests:
    """Draw times and candidates; an ad drawn twice for a request is shown once."""
    R, N = world.requests_per_user, world.candidates
    n = len(people.user)
    place_r = np.repeat(np.arange(n), R)
    span_s = world.request_days * DAY_S
    at_nR = (
        draws.uniform(Purpose.REQUEST_TIME, people.user[:, None], np.arange(R)[None, :]) * span_s
    ).astype(np.int64)
    timestamp_r = world.start + (world.days - world.request_days) * DAY_S + np.sort(at_nR, axis=1).ravel()
    number_r = people.user[place_r] * R + np.tile(np.arange(R), n)
    unit, slot = number_r[:, None], np.arange(N)[None, :]
    interest_rN = (
        draws.uniform(Purpose.CANDIDATE_INTEREST, unit, slot) * people.interests[place_r][:, None]
    ).astype(np.int64)
    category_rN = people.category[place_r[:, None], interest_rN]
    kind_rN = draws.uniform(Purpose.CANDIDATE_KIND, unit, slot)
    same = world.same_share
    complements = same + world.complement_share
    rivals = complements + world.rival_share
    category_rN = np.select(
        [kind_rN < same, kind_rN < complements],
        [category_rN, complement_of(category_rN)],
        rival_of(category_rN, categories=world.categories),
    )
    drawn_rN = draws.uniform(Purpose.CANDIDATE_AD, unit, slot)
    ad_rN = np.where(
        kind_rN < rivals,
        catalogue.ads_of(category_rN, drawn_rN),
        choose(catalogue.ad_totals, drawn_rN),
    )
    kept = np.flatnonzero(_first_in_row(ad_rN))
    return Requests(place_r, timestamp_r, number_r, kept // N, ad_rN.ravel()[kept], kept % N)


def _first_in_row(value_rN: Integers) -> NDArray[np.bool_]:
    """Return `[r * N]`: whether no earlier column of the row holds the same value."""
    seen = np.tril(value_rN[:, :, None] == value_rN[:, None, :], k=-1)
    first: NDArray[np.bool_] = ~seen.any(axis=2).ravel()
    return first
