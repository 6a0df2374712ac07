"""Writes a synthesized log: users in chunks, memory constant however many there are."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import polars as pl

from contract.errors import InputError
from contract.files import atomic_folder
from training.full_disk import full_disk
from training.splitmix import refuse_bad_seed
from training.synthesize.catalogue import Catalogue
from training.synthesize.draws import Draws, Integers, Purpose
from training.synthesize.parts import Parts
from training.synthesize.people import Behaviors, People, draw_behaviors, draw_people
from training.synthesize.requests import Requests, draw_requests
from training.synthesize.schema import ACTIONS, schema_toml
from training.synthesize.truth import interest_of, probability_of
from training.synthesize.world import WORLD, World

Progress: TypeAlias = Callable[[int, int | None, str], None]

CHUNK_EVENTS: Final = 300_000  # behaviours drawn at a time, on average
CHUNK_USERS: Final = 1_000  # at most: short histories have requests too
MOST: Final = {"users": 1_000_000_000, "ads": 10_000_000, "events_per_user": 100_000}
"""More is a slip of the keyboard: it would run for days, until the disk is full. Ads are held in memory."""
REMEDY: Final = "free space on its disk, or give another place"


def synthesize(
    log: Path,
    *,
    users: int = 8_000,
    ads: int = 2_000,
    events_per_user: int = 300,
    seed: int = 0,
    world: World = WORLD,
    chunk_users: int | None = None,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Write the log folder `log`, whole or not at all, and return the counts of what went into it.

    Args:
        log: replaced if it is a log folder; on any error it stays as it was.
        users: how many; everyone has behaviours and requests.
        ads: how many, at least one of each category.
        events_per_user: mean length of the histories.
        seed: of every draw; same seed, same bytes.
        world: the constants of the truth.
        chunk_users: users drawn at a time; changes memory and speed, never the log.
        progress: told `(users done, users in all, what is being done)`.

    Raises:
        InputError: a bad argument, or `log` is something other than a log folder.
        LongsightError: no room on the disk.

    """
    _check(world, users=users, ads=ads, events_per_user=events_per_user)
    refuse_bad_seed(seed)
    draws = Draws(seed)
    catalogue = Catalogue.build(world, draws, ads)
    size = chunk_users or max(1, min(CHUNK_USERS, CHUNK_EVENTS // events_per_user))
    report = progress or (lambda _done, _total, _label: None)
    counts = dict.fromkeys(("behaviors", "requests", "impressions", "clicks"), 0)
    with full_disk(log, remedy=REMEDY), atomic_folder(log, marker="schema.toml") as folder:
        parts = Parts(folder, ("users", "behaviors", "impressions", "truth"))
        for first in range(0, users, size):
            report(first, users, "drawing users")
            user_n = np.arange(first, min(first + size, users))
            people = draw_people(world, catalogue, draws, user_n, events=events_per_user)
            for name, count in _add(parts, people, world, catalogue, draws=draws).items():
                counts[name] += count
        for name in parts.names:
            report(users, users, f"writing {name}.parquet")
            parts.join(name)
        _write_small(folder, world, catalogue)
    report(users, users, "done")
    return {"seed": seed, "users": users, "ads": ads, **counts}


def _write_small(folder: Path, world: World, catalogue: Catalogue) -> None:
    """Write what fits in memory: the ads, their quality and the schema."""
    ads = catalogue.frame()
    ads.drop("quality").write_parquet(folder / "ads.parquet")
    ads.select("ad_id", "quality").write_parquet(folder / "truth_ads.parquet")
    (folder / "schema.toml").write_text(schema_toml(world), encoding="utf-8")


def _add(parts: Parts, people: People, world: World, catalogue: Catalogue, *, draws: Draws) -> dict[str, int]:
    """Add everything about some users to `parts`; returns the counts."""
    behaviors = draw_behaviors(world, catalogue, draws, people)
    requests = draw_requests(world, catalogue, draws, people)
    interest = interest_of(world, behaviors, requests.place, requests.timestamp)
    probability_i = probability_of(world, catalogue, interest, requests.request, requests.ad)
    clicked_i = draws.uniform(Purpose.CLICK, requests.number[requests.request], requests.slot) < probability_i
    region_n = (draws.uniform(Purpose.REGION, people.user) * world.regions).astype(np.int64)
    parts.add("users", pl.DataFrame({"user_id": people.user + 1, "region": region_n + 1}))
    parts.add("behaviors", _behaviors_frame(behaviors, people.user))
    shown = _shown_frame(requests, catalogue, people.user)
    parts.add("impressions", shown.with_columns(pl.Series("clicked", clicked_i.astype(np.int8))))
    parts.add("truth", shown.with_columns(pl.Series("probability", probability_i)))
    return {
        "behaviors": len(behaviors.place),
        "requests": len(requests.place),
        "impressions": len(probability_i),
        "clicks": int(clicked_i.sum()),
    }


def _behaviors_frame(behaviors: Behaviors, user_n: Integers) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": user_n[behaviors.place] + 1,
            "timestamp": behaviors.timestamp,
            "category": behaviors.category + 1,
            "subcategory": behaviors.subcategory + 1,
            "action": pl.Series(np.asarray(ACTIONS)[behaviors.purchase.astype(np.int64)]),
        }
    )


def _shown_frame(requests: Requests, catalogue: Catalogue, user_n: Integers) -> pl.DataFrame:
    place_i = requests.place[requests.request]
    return pl.DataFrame(
        {
            "user_id": user_n[place_i] + 1,
            "ad_id": catalogue.ad_id[requests.ad] + 1,
            "timestamp": requests.timestamp[requests.request],
            "request_id": requests.number[requests.request] + 1,
        }
    )


def _check(world: World, **given: int) -> None:
    least = {"users": 1, "ads": world.categories, "events_per_user": 1}
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        if value < least[name]:
            reason = ", one ad of each category" if name == "ads" else ""
            raise InputError(f"{flag} {value}: must be at least {least[name]}{reason}")
        if value > MOST[name]:
            raise InputError(f"{flag} {value}: must be at most {MOST[name]:,}")
