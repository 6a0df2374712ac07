"""Who people are and what they do: drifting interests, sessions, behaviours.

n users of a chunk, K interests at most, m sessions, e events, all flat.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.synthesize.catalogue import Catalogue
from training.synthesize.draws import Draws, Floats, Integers, Purpose, choose
from training.synthesize.world import DAY_S, World


@dataclass(frozen=True)
class People:
    """The users of a chunk and their interests."""

    user: Integers
    events: Integers
    """How many behaviours each has in all."""
    interests: Integers
    category: Integers
    favourite: Integers
    """The subcategory (among all) that an interest prefers."""
    weight: Floats
    """0 beyond a user's own number of interests."""
    period_s: Floats
    phase: Floats


@dataclass(frozen=True)
class Behaviors:
    """The behaviours of a chunk, by user and time."""

    place: Integers
    """Place of the user in the chunk."""
    timestamp: Integers
    category: Integers
    subcategory: Integers
    purchase: NDArray[np.bool_]


def draw_people(world: World, catalogue: Catalogue, draws: Draws, user_n: Integers, *, events: int) -> People:
    """Draw who the users are; `events` is the mean history length."""
    sigma = world.length_sigma
    ratio_n = np.exp(sigma * draws.normal(Purpose.EVENTS, user_n) - sigma**2 / 2)
    events_n = np.clip(np.rint(events * ratio_n), 1, world.longest * events).astype(np.int64)
    span = world.most_interests - world.fewest_interests + 1
    interests_n = world.fewest_interests + (draws.uniform(Purpose.INTERESTS, user_n) * span).astype(np.int64)
    unit, index = user_n[:, None], np.arange(world.most_interests)[None, :]
    category_nK = choose(catalogue.category_totals, draws.uniform(Purpose.INTEREST_CATEGORY, unit, index))
    within_nK = choose(catalogue.subcategory_totals, draws.uniform(Purpose.INTEREST_SUBCATEGORY, unit, index))
    weight_nK = np.exp(world.interest_weight_sd * draws.normal(Purpose.INTEREST_WEIGHT, unit, index))
    spread_days = world.longest_period_days - world.shortest_period_days
    period_days_nK = world.shortest_period_days + spread_days * draws.uniform(
        Purpose.INTEREST_PERIOD, unit, index
    )
    return People(
        user=user_n,
        events=events_n,
        interests=interests_n,
        category=category_nK,
        favourite=category_nK * world.subcategories + within_nK,
        weight=np.where(index < interests_n[:, None], weight_nK, 0.0),
        period_s=DAY_S * period_days_nK,
        phase=draws.uniform(Purpose.INTEREST_PHASE, unit, index),
    )


def draw_behaviors(world: World, catalogue: Catalogue, draws: Draws, people: People) -> Behaviors:
    """Draw what the users do: sessions about one interest each, and behaviours in them."""
    sessions_n = -(-people.events // world.session_events)
    first_n = np.concatenate([[0], np.cumsum(sessions_n)[:-1]])
    start_s_m, interest_m = _draw_sessions(world, draws, people, sessions_n)
    place, index = _flat(people.events)
    unit = people.user[place]
    own = (draws.uniform(Purpose.EVENT_SESSION, unit, index) * sessions_n[place]).astype(np.int64)
    session = first_n[place] + own
    interest = interest_m[session]
    offset_s = (draws.uniform(Purpose.EVENT_OFFSET, unit, index) * world.session_s).astype(np.int64)
    noise = draws.uniform(Purpose.EVENT_NOISE, unit, index) < world.noise_share
    anything = choose(catalogue.category_totals, draws.uniform(Purpose.EVENT_CATEGORY, unit, index))
    category = np.where(noise, anything, people.category[place, interest])
    within = choose(catalogue.subcategory_totals, draws.uniform(Purpose.EVENT_SUBCATEGORY, unit, index))
    favoured = draws.uniform(Purpose.EVENT_FAVOURITE, unit, index) < world.favourite_share
    subcategory = np.where(
        favoured & ~noise, people.favourite[place, interest], category * world.subcategories + within
    )
    purchase = draws.uniform(Purpose.EVENT_PURCHASE, unit, index) < world.purchase_share
    timestamp = world.start + start_s_m[session] + offset_s
    order = np.lexsort((timestamp, place))
    # A person does one thing at a second: the first of those drawn for it.
    moment = np.stack([place, timestamp[order]])
    order = order[np.append(True, (moment[:, 1:] != moment[:, :-1]).any(axis=0))]
    return Behaviors(place[order], timestamp[order], category[order], subcategory[order], purchase[order])


def _draw_sessions(
    world: World, draws: Draws, people: People, sessions_n: Integers
) -> tuple[Integers, Integers]:
    """Return start (seconds from the log's first) and interest of every session, user after user."""
    place, index = _flat(sessions_n)
    unit = people.user[place]
    span_s = world.days * DAY_S - world.session_s
    start_s_m = (draws.uniform(Purpose.SESSION_START, unit, index) * span_s).astype(np.int64)
    turn_mK = start_s_m[:, None] / people.period_s[place] + people.phase[place]
    total_mK = np.cumsum(people.weight[place] * np.exp(world.drift * np.sin(2 * np.pi * turn_mK)), axis=1)
    wanted_m = draws.uniform(Purpose.SESSION_INTEREST, unit, index) * total_mK[:, -1]
    interest_m = np.sum(total_mK <= wanted_m[:, None], axis=1)
    return start_s_m, np.minimum(interest_m, people.interests[place] - 1)


def _flat(counts: Integers) -> tuple[Integers, Integers]:
    """Return for every unit of `counts` runs the run it is in and its place there."""
    run = np.repeat(np.arange(len(counts)), counts)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return run, np.arange(len(run)) - first[run]
