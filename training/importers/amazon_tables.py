"""The two files of an Amazon 2014 category: reviews are strict JSON lines, items are Python literals.

Knows nothing of protocols or of the log.
"""

import ast
import json
import re
import warnings
from array import array
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contract.errors import LogError
from training.importers.external_log import LAST_SECOND, Progress
from training.importers.object_lines import ObjectLines

Ints = NDArray[np.int64]

_FIRST_KEY: Final = re.compile(r"\{'asin': '([^'\\]+)'")
_REVIEW_KEYS: Final = {"reviewerID": str, "asin": str, "unixReviewTime": int}
_BROKEN_LITERAL: Final = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)
_SHOWN: Final = 60


@dataclass(frozen=True)
class Reviews:
    """All reviews, user after user in the order of their ids, each user's by day, a day's as in the file."""

    users: list[str]
    """Ids, ascending, [users]."""
    items: list[str]
    """Ids, ascending, [items]."""
    user: Ints
    """Place of the reviewer, [reviews]."""
    item: Ints
    """Place of the item, [reviews]."""
    position: Ints
    """How many reviews of the user stand before it, [reviews]."""
    after: Ints
    """How many reviews of the user stand after it, [reviews]."""


def read_reviews(source: ObjectLines, progress: Progress) -> Reviews:
    """Read `reviews_<category>_5.json`.

    Raises:
        LogError: no reviews, or a line that is no JSON object with reviewerID, asin and unixReviewTime.

    """
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    columns = array("q"), array("q"), array("q")
    for number, text in source.lines(progress):
        reviewer, asin, second = _review(source, number, text)
        columns[0].append(users.setdefault(reviewer, len(users)))
        columns[1].append(items.setdefault(asin, len(items)))
        columns[2].append(second)
    if not users:
        raise LogError(f"{source.path}: no reviews")
    seconds = np.asarray(columns[2])
    user_names, user = _ranked(users, np.asarray(columns[0]))
    item_names, item = _ranked(items, np.asarray(columns[1]))
    order = np.lexsort((seconds, user))  # stable: ties keep the file's order
    user, item = user[order], item[order]
    counts = np.bincount(user)
    position = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    return Reviews(user_names, item_names, user, item, position, counts[user] - 1 - position)


def read_categories(source: ObjectLines, items: list[str], progress: Progress) -> list[str | None]:
    """Return the last category of the last list, `categories[-1][-1]`, of every item; None where there is none.

    Raises:
        LogError: a line that is no Python literal of a dict with asin and a list of lists of texts.

    """
    found: dict[str, str | None] = dict.fromkeys(items)
    for number, text in source.lines(progress):
        # Nine of ten items have too few reviews to be in the other file; a literal takes long to read.
        start = _FIRST_KEY.match(text)
        if start is not None and start[1] not in found:
            continue
        item = _literal(source, number, text)
        asin = item.get("asin")
        if not isinstance(asin, str):
            raise source.refuse(number, "has no text under 'asin'")
        category = _last_category(source, number, item)
        if found.get(asin, "") is None:
            found[asin] = category
    return [found[item] for item in items]


def _review(source: ObjectLines, number: int, text: str) -> tuple[str, str, int]:
    try:
        review = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise source.refuse(number, f"is not a JSON object: {text[:_SHOWN]!r}") from error
    if not isinstance(review, dict):
        raise source.refuse(number, f"is not a JSON object: {text[:_SHOWN]!r}")
    for key, kind in _REVIEW_KEYS.items():
        if type(review.get(key)) is not kind or review[key] == "":
            noun = "a text" if kind is str else "a whole number"
            raise source.refuse(number, f"{key!r} is {review.get(key)!r:.{_SHOWN}}, not {noun}")
        if kind is str:
            _refuse_half_a_character(source, number, key, review[key])
    if abs(review["unixReviewTime"]) > LAST_SECOND:
        raise source.refuse(
            number, f"'unixReviewTime' is {review['unixReviewTime']!r:.{_SHOWN}}, no time in seconds"
        )
    return review["reviewerID"], review["asin"], review["unixReviewTime"]


def _ranked(places: dict[str, int], column: Ints) -> tuple[list[str], Ints]:
    """Return the names in order, and a column of places in that order."""
    names = sorted(places)
    rank = np.empty(len(names), dtype=np.int64)
    rank[[places[name] for name in names]] = np.arange(len(names))
    return names, rank[column]


def _literal(source: ObjectLines, number: int, text: str) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # descriptions hold backslashes of every kind
            warnings.simplefilter("ignore", DeprecationWarning)
            value = ast.literal_eval(text)
    except _BROKEN_LITERAL as error:
        raise source.refuse(
            number, f"is not a Python literal, as the 2014 item files are: {text[:_SHOWN]!r}"
        ) from error
    if not isinstance(value, dict):
        raise source.refuse(number, f"is not a dict: {text[:_SHOWN]!r}")
    return value


def _last_category(source: ObjectLines, number: int, item: dict[str, Any]) -> str | None:
    lists = item.get("categories") or [[]]
    last = lists[-1] if isinstance(lists, list) else None
    if not isinstance(last, list) or not all(isinstance(each, str) for each in last):
        raise source.refuse(number, "'categories' is not a list of lists of texts")
    if last:
        _refuse_half_a_character(source, number, "categories", last[-1])
    return (last[-1] or None) if last else None


def _refuse_half_a_character(source: ObjectLines, number: int, key: str, text: str) -> None:
    """Refuse half of a surrogate pair, which an escape can hold and no Parquet file."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise source.refuse(number, f"{key!r} is {text!r:.{_SHOWN}}, which is no Unicode text") from error
