"""How impressions are divided for the report: placements, campaigns, new ads, history lengths.

R rows of the judged split.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.schema import SchemaField
from training.report.case import Case

MOST_LABELS: Final = 12
"""Values of a field that are shown, the rest together, where it has more than `ALL_LABELS`."""
ALL_LABELS: Final = 24
MOST_CONTEXT_FIELDS: Final = 6
MOST_AD_FIELDS: Final = 4
FEW_VALUES: Final = 60
CAMPAIGN: Final = re.compile("campaign|customer|advertiser|adgroup|ad_group|seller|account", re.IGNORECASE)
WHOLE_NUMBER: Final = re.compile("-?[0-9]+")
NOVELTY: Final = ("never", "1 to 9 times", "10 to 99 times", "100 times or more")


@dataclass(frozen=True)
class Slice:
    """The judged rows in groups."""

    title: str
    caption: str
    labels: list[str]
    group: NDArray[np.int64]
    """`[R]`, the label of each row; -1 = in none."""


def slices_of(case: Case) -> list[Slice]:
    """Return all divisions of the judged rows: context, ads, novelty, history length."""
    return [*_context(case), *_ad_fields(case), _novelty(case), _history(case)]


def _context(case: Case) -> Iterator[Slice]:
    """Yield placements: the context fields, those of fewest values first, as they were logged."""
    rows = case.main.row
    packed = [
        (field, np.asarray(case.dataset.column("context", field.name)[rows]))
        for field in case.dataset.schema.context
    ]
    sized = sorted(((_distinct(values), field, values) for field, values in packed), key=lambda each: each[0])
    for distinct, field, values in [each for each in sized if each[0] > 1][:MOST_CONTEXT_FIELDS]:
        caption = f"By placement: context field {field.name}, {distinct:,} values"
        if field.at_serving is not None:
            caption += " as logged (the model is given the constant of serving)"
        yield _divide(case, field, values, caption)


def _ad_fields(case: Case) -> Iterator[Slice]:
    """Yield campaigns: ad fields named like one, then categorical ad fields of few values."""
    ads = np.asarray(case.dataset.row("ad"))[case.main.row]
    found = []
    for field in case.dataset.schema.ad:
        if field.type != "categorical" or field.name == "ad_id":
            continue
        values = np.asarray(case.dataset.column("ad", field.name))[ads]
        distinct = _distinct(values)
        named = CAMPAIGN.search(field.name) is not None
        if distinct > 1 and (named or distinct <= FEW_VALUES):
            found.append((not named, distinct, field, values))
    for _, distinct, field, values in sorted(found, key=lambda each: each[:2])[:MOST_AD_FIELDS]:
        yield _divide(case, field, values, f"By ad field {field.name}, {distinct:,} values")


def _novelty(case: Case) -> Slice:
    ads = np.asarray(case.dataset.row("ad"))[case.main.row]
    group = np.digitize(case.shown_in_training[ads], (1, 10, 100))
    caption = "New ads: how often the ad was shown in the training split"
    return Slice("shown in training", caption, list(NOVELTY), group)


def _history(case: Case) -> Slice:
    labels, group = [], np.full(len(case.main.row), -1)
    for index, (label, inside) in enumerate(case.main.by_length()):
        labels.append(f"{label} events")
        group[inside] = index
    return Slice("events before", "By history length: events of the user before the request", labels, group)


def _divide(case: Case, field: SchemaField, values: NDArray[np.generic], caption: str) -> Slice:
    """Return the rows by value: the most frequent ones, missing ones, and the rest together."""
    if field.type == "numeric":
        return _by_number(field.name, np.asarray(values, dtype=np.float64), caption)
    known, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    kept = order if len(order) <= ALL_LABELS else order[:MOST_LABELS]
    texts = case.dataset.texts(str(field.vocabulary))
    labels = [
        "missing" if known[i] == 0 else texts.get(int(known[i])) or f"#{int(known[i]):016x}" for i in kept
    ]
    if all(WHOLE_NUMBER.fullmatch(label) for label in labels):  # hours, positions: as one counts
        ranked = sorted(range(len(labels)), key=lambda i: int(labels[i]))
        kept, labels = kept[ranked], [labels[i] for i in ranked]
    place = np.full(len(known), len(kept))
    place[kept] = np.arange(len(kept))
    if len(kept) < len(known):
        labels.append(f"{len(known) - len(kept):,} other values")
    return Slice(field.name, caption, labels, place[index])


def _by_number(name: str, values: NDArray[np.float64], caption: str) -> Slice:
    """Return the rows by a number: its values if they are few, else by quintile."""
    known = np.unique(values[~np.isnan(values)])
    if len(known) <= MOST_LABELS:
        labels = [f"{value:g}" for value in known]
        group = np.searchsorted(known, values)
    else:
        edges = np.unique(np.nanquantile(values, [0.2, 0.4, 0.6, 0.8]))
        bounds = [known[0], *edges, known[-1]]
        labels = [f"{low:g} to {high:g}" for low, high in pairwise(bounds)]
        group = np.searchsorted(edges, values)
    group = np.where(np.isnan(values), len(labels), group)
    return Slice(name, caption, [*labels, "missing"], group)


def _distinct(values: NDArray[np.generic]) -> int:
    return len(np.unique(values))
