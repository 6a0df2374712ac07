"""Chooses which of the ads that were shown, but not bought, a log keeps.

Knows nothing of files or products: a trip sees the slots `starts[g] .. starts[g + 1]` of its group g (one
store in one week), and a bought slot is a pair (trip, slot). Both samplers return pairs and never hold the
cross join of trips and slots.

Legend: T trips, G groups, S slots of all groups one after another, B bought pairs.
"""

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from contract.errors import InputError

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]

ALLOWED = "uniform:K or popular:K with a whole number K >= 1, e.g. popular:20"
BLOCK_CELLS = 1 << 20
"""Most (trip, slot) cells that `popular` holds at once: 8 MiB per array."""


@dataclass(frozen=True)
class NegativesSpec:
    """What `--negatives` asks for: the sampler and K, the negatives per trip (on average, or at most)."""

    kind: Literal["uniform", "popular"]
    per_trip: int


def parse_negatives(text: str) -> NegativesSpec:
    """Read `uniform:K` or `popular:K`; raise `InputError` that names the flag and the allowed forms."""
    match = re.fullmatch(r"(uniform|popular):([1-9][0-9]{0,8})", text)
    if match is None:
        raise InputError(f"--negatives {text!r}: expected {ALLOWED}")
    kind: Literal["uniform", "popular"] = "uniform" if match[1] == "uniform" else "popular"
    return NegativesSpec(kind, int(match[2]))


@dataclass(frozen=True)
class Shown:
    """Which slots every trip saw, and which of them it bought."""

    starts: Ints
    """First slot of each group, [G + 1]."""
    group: Ints
    """Group of each trip, [T]."""
    bought_trip: Ints
    """Trip of each bought pair, [B], ascending."""
    bought_slot: Ints
    """Slot of each bought pair, [B], ascending inside a trip; no pair twice."""

    @property
    def sizes(self) -> Ints:
        """Slots each trip saw, [T]."""
        return (self.starts[1:] - self.starts[:-1])[self.group]

    def bought_counts(self) -> Ints:
        """Slots each trip bought, [T]."""
        return np.bincount(self.bought_trip, minlength=len(self.group)).astype(np.int64)


@dataclass(frozen=True)
class Kept:
    """Negatives that stay in the log, as pairs ordered by trip and slot, and how likely each was to stay."""

    trip: Ints
    slot: Ints
    rate: float | None
    """None: not known for `popular`, whose inclusion probabilities have no closed form."""


def sample(shown: Shown, spec: NegativesSpec, weight: Floats, rng: np.random.Generator) -> Kept:
    """Draw the negatives that `spec` asks for; `weight` [S] > 0 counts for `popular` alone."""
    if spec.kind == "uniform":
        return uniform(shown, spec.per_trip, rng)
    return popular(shown, spec.per_trip, weight, rng)


def uniform(shown: Shown, per_trip: int, rng: np.random.Generator) -> Kept:
    """Keep each slot that was not bought with one probability: per_trip / their mean number per trip (or 1).

    A Bernoulli process is drawn by its gaps, which are geometric: work and memory grow with the pairs kept,
    not with the pairs shown (567 million in The Complete Journey).
    """
    ends = np.cumsum(shown.sizes)
    total = int(ends[-1]) if len(ends) else 0
    others = total - len(shown.bought_trip)
    if others == 0:
        return Kept(np.empty(0, np.int64), np.empty(0, np.int64), 1.0)
    rate = min(1.0, per_trip * len(shown.group) / others)
    place = _bernoulli(total, rate, rng)
    trip = np.searchsorted(ends, place, side="right").astype(np.int64)
    slot = place - (ends - shown.sizes)[trip] + shown.starts[shown.group[trip]]
    stays = ~_among(trip, slot, shown)
    return Kept(trip[stays], slot[stays], rate)


def _bernoulli(total: int, rate: float, rng: np.random.Generator) -> Ints:
    """Indices below `total` that succeed when each does so on its own with probability `rate`, ascending."""
    drawn: list[Ints] = []
    last = -1
    while last < total:
        expected = (total - last) * rate
        gaps = rng.geometric(rate, size=int(expected + 6 * expected**0.5) + 16)
        drawn.append(last + np.cumsum(gaps, dtype=np.int64))
        last = int(drawn[-1][-1])
    place = np.concatenate(drawn)
    return place[: int(np.searchsorted(place, total))]


def _among(trip: Ints, slot: Ints, shown: Shown) -> NDArray[np.bool_]:
    """Whether each pair (trip, slot) is a bought one."""
    slots = int(shown.starts[-1])
    bought = shown.bought_trip * slots + shown.bought_slot
    return np.isin(trip * slots + slot, bought, assume_unique=True)


def popular(shown: Shown, per_trip: int, weight: Floats, rng: np.random.Generator) -> Kept:
    """For each trip that bought something, keep `per_trip` of the other slots (all, if fewer), by weight.

    Without replacement: the smallest `per_trip` of E / weight, E ~ Exp(1), are a sample drawn one after
    another in proportion to weight (Efraimidis and Spirakis, 2006). Trips of one group share their slots, so
    the keys of a block of them are one matrix.
    """
    counts = shown.bought_counts()
    first = np.cumsum(counts) - counts
    buyers = np.flatnonzero(counts)
    buyers = buyers[np.argsort(shown.group[buyers], kind="stable")]
    trips: list[Ints] = [np.empty(0, np.int64)]
    slots: list[Ints] = [np.empty(0, np.int64)]
    for block in _blocks(buyers, shown):
        begin, end = shown.starts[shown.group[block[0]]], shown.starts[shown.group[block[0]] + 1]
        key = rng.standard_exponential((len(block), end - begin)) / weight[begin:end]
        row = np.repeat(np.arange(len(block)), counts[block])
        bought = np.concatenate([shown.bought_slot[first[t] : first[t] + counts[t]] for t in block])
        key[row, bought - begin] = np.inf
        row, column = _smallest(key, per_trip)
        trips.append(block[row])
        slots.append(column + begin)
    trip, slot = np.concatenate(trips), np.concatenate(slots)
    order = np.lexsort((slot, trip))
    return Kept(trip[order], slot[order], None)


def _blocks(buyers: Ints, shown: Shown) -> list[Ints]:
    """Cut trips ordered by group into runs of one group with at most BLOCK_CELLS (trip, slot) cells."""
    group = shown.group[buyers]
    blocks = []
    for run in np.split(buyers, np.flatnonzero(np.diff(group)) + 1):
        if len(run):
            size = int(shown.starts[shown.group[run[0]] + 1] - shown.starts[shown.group[run[0]]])
            step = max(1, BLOCK_CELLS // size)
            blocks += [run[at : at + step] for at in range(0, len(run), step)]
    return blocks


def _smallest(key: Floats, count: int) -> tuple[Ints, Ints]:
    """(row, column) of the `count` smallest finite keys of every row."""
    if count < key.shape[1]:
        column = np.argpartition(key, count - 1, axis=1)[:, :count]
    else:
        column = np.broadcast_to(np.arange(key.shape[1]), key.shape)
    row = np.broadcast_to(np.arange(len(key))[:, None], column.shape)
    finite = np.isfinite(key[row, column])
    return row[finite], column[finite].astype(np.int64)
