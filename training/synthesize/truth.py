"""The planted truth: what an impression's click probability is, given what the user did before.

    m(j, a)  = 1 if both are of one subcategory, `same_category` if only of one category,
               `complement` if their categories go together, `rival` if they stand against each other, else 0
    S(r, a)  = sum over behaviours j before request r of w_j m(j, a) / (1 + age_j / decay) ** 2
    log-odds = base + quality_a + strength * asinh(S / unit)

r requests and e behaviours of a chunk, i impressions.
"""

import numpy as np

from training.synthesize.catalogue import Catalogue, complement_of, rival_of
from training.synthesize.draws import Floats, Integers
from training.synthesize.people import Behaviors
from training.synthesize.world import DAY_S, World


def interest_of(world: World, behaviors: Behaviors, place_r: Integers, timestamp_r: Integers) -> Floats:
    """Return `[r, subcategories of all]`: the decayed weight of what each request's user did before it."""
    span = world.days * DAY_S
    # One ascending number per (user, time): the behaviours of a request are a slice.
    position_e = behaviors.place * span + (behaviors.timestamp - world.start)
    start_r = np.searchsorted(position_e, place_r * span)
    end_r = np.searchsorted(position_e, place_r * span + (timestamp_r - world.start))
    counts_r = end_r - start_r
    request = np.repeat(np.arange(len(place_r)), counts_r)
    first_r = np.concatenate([[0], np.cumsum(counts_r)[:-1]])
    event = np.arange(len(request)) - first_r[request] + start_r[request]
    aged = 1 + (timestamp_r[request] - behaviors.timestamp[event]) / (world.decay_days * DAY_S)
    weight = np.where(behaviors.purchase[event], world.purchase_weight, 1.0) / (aged * aged)
    total = world.categories * world.subcategories
    cell = request * total + behaviors.subcategory[event]
    interest: Floats = np.bincount(cell, weights=weight, minlength=len(place_r) * total).astype(np.float64)
    return interest.reshape(-1, total)


def probability_of(
    world: World, catalogue: Catalogue, interest: Floats, request_i: Integers, ad_i: Integers
) -> Floats:
    """Return the click probability of impressions, given `interest_of` their requests."""
    by_category = interest.reshape(len(interest), world.categories, world.subcategories).sum(axis=2)
    category_i, subcategory_i = catalogue.ad_category[ad_i], catalogue.ad_subcategory[ad_i]
    same_i = interest[request_i, subcategory_i]
    score_i = (
        same_i
        + world.same_category * (by_category[request_i, category_i] - same_i)
        + world.complement * by_category[request_i, complement_of(category_i)]
        + world.rival * by_category[request_i, rival_of(category_i, categories=world.categories)]
    )
    log_odds_i = world.base + catalogue.ad_quality[ad_i] + world.strength * np.arcsinh(score_i / world.unit)
    probability_i: Floats = 1 / (1 + np.exp(-log_odds_i))
    return probability_i
