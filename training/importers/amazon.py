"""Imports an Amazon 2014 5-core category with the protocol of the DIN or of the TIN paper's code.

Both leave out each user's last reviews, whenever they were written, and know no clock but the position in the
user's list. A log is split by time, so here the position is the time: a review with r later ones of the same
user stands on day LAST_DAY - r. Everybody's last review falls on one day, everybody's second last on the day
before, and only what precedes them in the list precedes them in time.
"""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import polars as pl

from contract.errors import InputError, LogError
from contract.files import atomic_folder
from training.full_disk import full_disk
from training.importers.amazon_tables import Ints, Reviews, read_categories, read_reviews
from training.importers.draws import uniform
from training.importers.external_log import Progress
from training.importers.object_lines import ObjectLines
from training.importers.parquet_blocks import ROOM, write_frame
from training.schema_text import Axis, Exact, Field, schema_text
from training.splitmix import refuse_bad_seed

Protocol = Literal["din", "tin"]

DAY_S: Final = 86_400
LAST_DAY: Final = 10_000
"""Far from today (it would be 1997): nobody takes the positions for dates."""
TEST_FROM: Final = LAST_DAY * DAY_S
_VALIDATION_STREAM: Final = 5
_MEANING: Final = {
    "tin": "last review of a user = test, second last = validation, earlier ones train",
    "din": "last review of a user = test; the second last of some users, a second later, = validation",
}


@dataclass(frozen=True)
class _Plan:
    """When each review takes place in the log, and where validation begins."""

    timestamp: Ints
    validation_from: int


def import_amazon(
    raw: Path,
    log: Path,
    *,
    protocol: str = "tin",
    category: str = "Electronics",
    validation_share: float = 0.05,
    seed: int = 1234,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Write the log folder `log`, whole or not at all, and return the counts of what went into it.

    Args:
        raw: folder of reviews_<category>_5.json and meta_<category>.json, plain or .gz.
        log: replaced if it is a log folder; on any error it stays as it was.
        protocol: `tin` (validation = second last review) or `din` (it has no validation of its own).
        category: part of the file names.
        validation_share: din: share of the users whose last training pair is set aside as validation.
        seed: of the negatives, drawn as the papers' code draws them, and of that share.
        progress: told `(done, in all, what is being done)`.

    Raises:
        InputError: a bad argument, or `log` is something other than a log folder.
        LogError: a raw file that is missing or not as it should be: names file and line.
        LongsightError: no room on the disk.

    """
    _check(protocol, validation_share, seed)
    tell = progress or (lambda *_: None)
    review_lines = ObjectLines(raw, f"reviews_{category}_5.json")
    item_lines = ObjectLines(raw, f"meta_{category}.json")
    reviews = read_reviews(review_lines, tell)
    categories = read_categories(item_lines, reviews.items, tell)
    tell(0, 1, "choosing negatives")
    if reviews.position.max() >= LAST_DAY:
        raise LogError(f"{review_lines.path}: a user with more than {LAST_DAY:,} reviews")
    plan = _plan(reviews, protocol, validation_share, seed)
    negatives = draw_negatives(reviews, seed)
    kinds = pl.Series(categories, dtype=pl.String)
    with full_disk(log, remedy=ROOM), atomic_folder(log, marker="schema.toml") as folder:
        counts = _write(folder, reviews, plan=plan, negatives=negatives, kinds=kinds)
        (folder / "schema.toml").write_text(schema_toml(protocol, plan.validation_from), encoding="utf-8")
    tell(1, 1, "done")
    return {
        "protocol": protocol,
        "seed": seed,
        "behaviors": len(reviews.user),
        "users": len(reviews.users),
        "items": len(reviews.items),
        "items_without_category": int(kinds.null_count()),
        "categories": int(kinds.drop_nulls().n_unique()),
        **counts,
        "validation_from": plan.validation_from,
        "test_from": TEST_FROM,
    }


def schema_toml(protocol: str, validation_from: int) -> str:
    """Return the text of `schema.toml`."""
    return schema_text(
        [
            f"Amazon 2014, protocol of {protocol.upper()}: which of two items does this user review next?",
            f"Time is the position: day {LAST_DAY:,} (of 86,400 s) less the user's reviews that are still to come.",
        ],
        Axis(validation_from, TEST_FROM, _MEANING[protocol]),
        actions=("review",),
        vocabularies={"item": Exact(1, 1), "category": Exact(1, 1)},
        fields=(
            Field("behavior", "item_id", "item"),
            Field("behavior", "category", "category", optional=True),
            Field("ad", "ad_id", "item", matches="item_id"),
            Field("ad", "category", "category", matches="category", optional=True),
        ),
    )


def draw_negatives(reviews: Reviews, seed: int) -> Ints:
    """Return an item beside every review, [reviews]: any with equal chance that its user never reviews.

    The order of the draws is that of the papers' code (Python's generator, one item after another for every
    review, the first included), so seed 1234 gives its negatives.

    Raises:
        InputError: a user has reviewed every item.

    """
    generator = random.Random(seed)  # noqa: S311 - a sample, not a secret
    last = len(reviews.items) - 1
    ends = np.cumsum(np.bincount(reviews.user)).tolist()
    item = reviews.item.tolist()
    drawn: list[int] = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        own = set(item[start:end])
        if len(own) > last:
            raise InputError(
                f"user {reviews.users[reviews.user[start]]!r} has reviewed every item: no negatives"
            )
        for _ in range(start, end):
            negative = generator.randint(0, last)
            while negative in own:
                negative = generator.randint(0, last)
            drawn.append(negative)
    return np.array(drawn, dtype=np.int64)


def _check(protocol: str, validation_share: float, seed: int) -> None:
    if protocol not in get_args(Protocol):
        raise InputError(f"--protocol {protocol!r}: expected din or tin")
    if not 0 < validation_share < 1:
        raise InputError(f"--validation-share {validation_share}: expected a number between 0 and 1")
    refuse_bad_seed(seed)


def _plan(reviews: Reviews, protocol: str, share: float, seed: int) -> _Plan:
    timestamp = (LAST_DAY - reviews.after) * DAY_S
    if protocol == "tin":
        return _Plan(timestamp, TEST_FROM - DAY_S)
    # A second is enough to part the validation pairs from the training pairs of the same day.
    pair = (reviews.after == 1) & (reviews.position >= 1)
    able = np.flatnonzero(pair)
    if not len(able):
        return _Plan(timestamp, TEST_FROM - DAY_S + 1)
    drawn = uniform(seed, _VALIDATION_STREAM, reviews.user[able])
    count = max(round(len(able) * share), 1)
    timestamp[able[np.argsort(drawn, kind="stable")[:count]]] += 1
    return _Plan(timestamp, TEST_FROM - DAY_S + 1)


def _write(
    folder: Path, reviews: Reviews, *, plan: _Plan, negatives: Ints, kinds: pl.Series
) -> dict[str, int]:
    """Write the tables; `kinds` are the items' categories. Return the rows of each split."""
    names = pl.Series(reviews.items, dtype=pl.String)
    write_frame(folder / "behaviors.parquet", _behaviors(reviews, plan, names, kinds))
    impressions = _impressions(reviews, plan, negatives, names)
    write_frame(folder / "impressions.parquet", impressions)
    write_frame(folder / "ads.parquet", pl.DataFrame({"ad_id": names, "category": kinds}))
    return _split_counts(impressions["timestamp"], plan.validation_from)


def _behaviors(reviews: Reviews, plan: _Plan, names: pl.Series, kinds: pl.Series) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": pl.Series(reviews.users, dtype=pl.String).gather(reviews.user),
            "timestamp": plan.timestamp,
            "item_id": names.gather(reviews.item),
            "category": kinds.gather(reviews.item),
        }
    )


def _impressions(reviews: Reviews, plan: _Plan, negatives: Ints, names: pl.Series) -> pl.DataFrame:
    """Return impressions.parquet: a user's first review has no history and is none; two rows by item id each."""
    later = np.flatnonzero(reviews.position >= 1)
    item = np.stack([reviews.item[later], negatives[later]], axis=1)
    order = np.argsort(item, axis=1)
    item = np.take_along_axis(item, order, axis=1).ravel()
    return pl.DataFrame(
        {
            "user_id": pl.Series(reviews.users, dtype=pl.String).gather(np.repeat(reviews.user[later], 2)),
            "ad_id": names.gather(item),
            "timestamp": np.repeat(plan.timestamp[later], 2),
            "clicked": (order == 0).astype(np.int8).ravel(),
        }
    )


def _split_counts(timestamp: pl.Series, validation_from: int) -> dict[str, int]:
    """Count the rows of each split."""
    return {
        "train_rows": int((timestamp < validation_from).sum()),
        "validation_rows": int(timestamp.is_between(validation_from, TEST_FROM, closed="left").sum()),
        "test_rows": int((timestamp >= TEST_FROM).sum()),
    }
