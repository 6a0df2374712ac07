"""The promotions table as one sorted array of slots: which products stood where, in which store and week.

20.9 million rows of five columns are packed to one 64-bit number each (group, product, placement), so that
one sort groups them by store and week, orders the products inside, and puts the smallest placement first
among duplicates.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contract.errors import LogError
from training.importers.raw_tables import RawTables, blank_as_null

Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Promotions:
    """G groups (store, week), S slots (one promoted product of one group), A products ever promoted."""

    groups: pl.DataFrame
    """store_id, week, ascending; [G] rows."""
    starts: Ints
    """First slot of each group, [G + 1]."""
    product: NDArray[np.int32]
    """Index into `product_ids`, [S], ascending inside a group."""
    placement: NDArray[np.int32]
    """Index into `placements`, [S]."""
    product_ids: Ints
    """[A], ascending."""
    placements: pl.DataFrame
    """display, mailer: every pair of the two, ascending."""
    duplicates: int
    """Rows dropped because their (store, week, product) had a smaller (display, mailer)."""

    def slots(self, group: Ints, product_id: Ints) -> Ints:
        """Slot of each (group, product id), -1 where that product was not promoted there."""
        product, known = _index(self.product_ids, product_id)
        width = len(self.product_ids)
        own = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts)) * width + self.product
        slot, promoted = _index(own, group * width + product)
        return np.where(known & promoted, slot, -1)


def read_promotions(raw: RawTables) -> Promotions:
    """Read the table `promotions` column by column (peak about 1.2 GB for 20.9 M rows)."""
    groups, key = _group_index(raw)
    product_ids, product = _index_column(raw, "product_id")
    key = key * len(product_ids) + product
    del product
    placements, placement = _placement_index(raw)
    key = key * len(placements) + placement
    del placement
    if not len(key):
        raise LogError(f"{raw.path('promotions')}: no rows")
    key.sort()
    pair = key // len(placements)
    first = np.concatenate([[True], pair[1:] != pair[:-1]])
    key, duplicates = key[first], int(len(key) - first.sum())
    pair = pair[first]
    group = pair // len(product_ids)
    return Promotions(
        groups=groups,
        starts=np.searchsorted(group, np.arange(len(groups) + 1)).astype(np.int64),
        product=(pair % len(product_ids)).astype(np.int32),
        placement=(key % len(placements)).astype(np.int32),
        product_ids=product_ids,
        placements=placements,
        duplicates=duplicates,
    )


def _group_index(raw: RawTables) -> tuple[pl.DataFrame, Ints]:
    """Return the distinct (store_id, week) and each row's index into them."""
    stores, store = _index_column(raw, "store_id")
    weeks, week = _index_column(raw, "week")
    cell = store * len(weeks) + week
    used = np.flatnonzero(np.bincount(cell, minlength=len(stores) * len(weeks)))
    number = np.zeros(len(stores) * len(weeks), np.int64)
    number[used] = np.arange(len(used))
    groups = pl.DataFrame({"store_id": stores[used // len(weeks)], "week": weeks[used % len(weeks)]})
    return groups, number[cell]


def _index_column(raw: RawTables, column: str) -> tuple[Ints, Ints]:
    """Return the distinct values of an integer column, ascending, and each row's index into them."""
    values = raw.read("promotions", [column])[column]
    distinct = values.unique().sort().to_numpy()
    return distinct, np.searchsorted(distinct, values.to_numpy()).astype(np.int64)


def _placement_index(raw: RawTables) -> tuple[pl.DataFrame, Ints]:
    """Return every pair (display, mailer), ascending, and each row's index into them."""
    displays, display = _text_column(raw, "display_location")
    mailers, mailer = _text_column(raw, "mailer_location")
    pairs = displays.to_frame("display").join(
        mailers.to_frame("mailer"), how="cross", maintain_order="left_right"
    )
    return pairs.with_columns(blank_as_null("display"), blank_as_null("mailer")), display * len(
        mailers
    ) + mailer


def _text_column(raw: RawTables, column: str) -> tuple[pl.Series, Ints]:
    """Return the distinct values of a text column, ascending, and each row's index into them."""
    values = raw.read("promotions", [column])[column]
    distinct = values.unique().sort()
    return distinct, values.cast(pl.Enum(distinct)).to_physical().to_numpy().astype(np.int64)


def _index(ascending: Ints, wanted: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Place of each wanted value in an ascending array, and whether it is there at all."""
    place = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1).astype(np.int64)
    return place, ascending[place] == wanted
