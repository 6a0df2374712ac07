"""Makes a click task of a log that shows no impressions: which of these items does this user click next?

Chooses, from the sorted events of some users, the clicks to be predicted, and draws items that stand beside
them as not clicked. Knows nothing of files. All draws depend on user, second and seed alone (`draws`).

Legend: E events of one portion, R requests chosen from it, K negatives per request.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.importers.draws import mixed, uniform
from training.importers.external_log import changes
from training.importers.partitions import Records

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]

CHOSEN: Final = np.dtype([("user", "<u4"), ("timestamp", "<u4"), ("item", "<u4"), ("clicked", "u1")])
ROUNDS: Final = 16
_TARGET_STREAM: Final = 2
_NEGATIVE_STREAM: Final = 3
_REST_STREAM: Final = 4


@dataclass(frozen=True)
class Items:
    """Items clicked in the training period: what a request may hold."""

    ids: NDArray[np.uint32]
    """Ascending, [items]."""
    weight: Ints
    """How likely each is to be drawn, > 0, [items]."""

    @cached_property
    def ends(self) -> Ints:
        """Running sum of the weights, [items]: a point below the last falls to the item it lies before."""
        return np.cumsum(self.weight)

    def places(self, items: NDArray[np.uint32]) -> Ints:
        """Return where each item stands, -1 where it is none of them."""
        place = np.minimum(np.searchsorted(self.ids, items), len(self.ids) - 1)
        return np.where(self.ids[place] == items, place, -1)


@dataclass(frozen=True)
class Task:
    """What is asked for: how many targets of which users, and how many negatives beside each."""

    starts: tuple[int, int]
    """First second of validation and of test."""
    targets: int
    """Most requests of one user in each split."""
    min_history: int
    """Events that a user must have had before a request."""
    negatives: int
    seed: int

    def requests(self, events: Records, items: Items, clicks: NDArray[np.bool_]) -> Records:
        """Return the requests of some users as rows of CHOSEN: by user, second and item.

        Args:
            events: all events of these users, sorted by user and second, [E].
            items: that may be shown.
            clicks: whether each event is a click, [E].

        """
        second = changes(events, "user", "timestamp")
        block = np.cumsum(second) - 1
        place = items.places(events["item"])
        target = self._targets(events, block, np.flatnonzero(second), clicks & (place >= 0))
        # What else the user did in that second is neither shown nor denied.
        asked = np.zeros(len(events), dtype=bool)
        asked[block[target]] = True
        own = asked[block] & (place >= 0)
        taken = np.sort(block[own] * len(items.ids) + place[own])
        others = self._negatives(events[target], block[target], items, taken)
        chosen = np.empty((len(target), 1 + self.negatives), dtype=CHOSEN)
        chosen["user"] = events["user"][target][:, None]
        chosen["timestamp"] = events["timestamp"][target][:, None]
        chosen["item"][:, 0] = events["item"][target]
        chosen["item"][:, 1:] = items.ids[others]
        chosen["clicked"] = 0
        chosen["clicked"][:, 0] = 1
        rows = chosen[np.column_stack([np.ones(len(target), dtype=bool), others >= 0])]
        ordered: Records = rows[np.lexsort((rows["item"], rows["timestamp"], rows["user"]))]
        return ordered

    def _targets(self, events: Records, block: Ints, first: Ints, able: NDArray[np.bool_]) -> Ints:
        """Return the events to predict: per user and split at most `targets`, of different seconds, [R]."""
        user = np.cumsum(changes(events, "user")) - 1
        user_first = np.flatnonzero(changes(events, "user"))
        earlier = first[block] - user_first[user]
        index = np.flatnonzero(able & (earlier >= self.min_history))
        drawn = uniform(
            self.seed,
            _TARGET_STREAM,
            events["user"][index],
            events["timestamp"][index],
            events["item"][index],
        )
        index, drawn = _lowest(index, drawn, block[index])
        split = np.searchsorted(np.array(self.starts), events["timestamp"][index], side="right")
        group = user[index] * 3 + split
        order = np.lexsort((drawn, group))
        index, group = index[order], group[order]
        start = np.flatnonzero(_heads(group))
        rank = np.arange(len(group)) - np.repeat(start, np.diff(np.append(start, len(group))))
        return np.sort(index[rank < self.targets])

    def _negatives(self, requests: Records, block: Ints, items: Items, taken: Ints) -> Ints:
        """Draw places of items by weight, none twice in a request and none `taken` (sorted), [R, K], -1 = none."""
        size = len(items.ids)
        found = np.full((len(requests), self.negatives), -1, dtype=np.int64)
        key = mixed(self.seed, _NEGATIVE_STREAM, requests["user"], requests["timestamp"])
        filled = np.zeros(len(requests), dtype=np.int64)
        for draw in range(ROUNDS * self.negatives):
            open_rows = np.flatnonzero(filled < self.negatives)
            if not len(open_rows):
                return found
            point = (uniform(self.seed, key[open_rows], draw) * items.ends[-1]).astype(np.int64)
            place = np.searchsorted(items.ends, point, side="right")
            fresh = ~(found[open_rows] == place[:, None]).any(axis=1)
            fresh &= ~_among(block[open_rows] * size + place, taken)
            rows = open_rows[fresh]
            found[rows, filled[rows]] = place[fresh]
            filled[rows] += 1
        for row in np.flatnonzero(filled < self.negatives):
            found[row] = self._rest(found[row], block[row] * size, items, taken, int(key[row]))
        return found

    def _rest(self, found: Ints, offset: int, items: Items, taken: Ints, key: int) -> Ints:
        """Complete one request from a list of all items: where few are left, drawing hardly meets them."""
        place = np.arange(len(items.ids))
        free = place[~_among(offset + place, taken) & ~np.isin(place, found)]
        # The smallest of E / weight, E ~ Exp(1), are a sample in proportion to weight (see `negatives`).
        spread = -np.log1p(-uniform(self.seed, _REST_STREAM, key, free)) / items.weight[free]
        more = free[np.argsort(spread, kind="stable")][: int((found < 0).sum())]
        complete = np.full(len(found), -1, dtype=np.int64)
        kept = np.append(found[found >= 0], more)
        complete[: len(kept)] = kept
        return complete


def _lowest(index: Ints, drawn: Floats, block: Ints) -> tuple[Ints, Floats]:
    """Return of each run of `block` the entry with the lowest draw (the first of equals)."""
    head = _heads(block)
    if not len(index):
        return index, drawn
    lowest = np.minimum.reduceat(drawn, np.flatnonzero(head))[np.cumsum(head) - 1] == drawn
    index, drawn, block = index[lowest], drawn[lowest], block[lowest]
    return index[_heads(block)], drawn[_heads(block)]


def _heads(sorted_values: Ints) -> NDArray[np.bool_]:
    """Whether each value is the first of its run."""
    head = np.ones(len(sorted_values), dtype=bool)
    head[1:] = sorted_values[1:] != sorted_values[:-1]
    return head


def _among(values: Ints, ordered: Ints) -> NDArray[np.bool_]:
    if not len(ordered):
        return np.zeros(len(values), dtype=bool)
    found: NDArray[np.bool_] = (
        ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values
    )
    return found
