"""The catalogue in memory: every ad encoded once, when it changes; a request only gathers rows. Knows no Redis."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from contract.encoder import Array, Encoder, Tensors
from contract.errors import LongsightError
from contract.keys import key, key_hex
from contract.schema import RawValue
from service.catalog.index import IdIndex
from service.layout import unpack_ad

logger = logging.getLogger(__name__)

FIRST_ROWS: Final = 1024

AdId: TypeAlias = str | int
Packed: TypeAlias = tuple[int, bytes]  # an ad's key and its features as stored


@dataclass(frozen=True, slots=True)
class AdColumns:
    """The ads of one request, in its order.

    Attributes:
        tensors: `ad_<field>` `[N]` for every ad field of the schema.
        unknown: how many of the N the catalogue does not hold; of those only the id is encoded.

    """

    tensors: Tensors
    unknown: int


class AdTable:
    """Encoded columns that grow, and where each ad stands in them.

    Args:
        encoder: of the bundle.

    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._columns: dict[str, Array] = {
            name: np.empty(FIRST_ROWS, dtype=column.dtype) for name, column in encoder.ads([{}]).items()
        }
        self._index = IdIndex()
        self._texts: dict[int, str] = {}  # key -> id text, to find the row of an ad that was deleted
        self._stored: list[bytes] = []  # row -> features as stored
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._texts)

    def columns_for(self, ids: Sequence[AdId]) -> AdColumns:
        """Return the encoded features of N ads.

        Raises:
            InputError: an unknown id that is no id (see `contract.keys`).

        """
        index = self._index.find(_texts(ids))
        missing = (index < 0).nonzero()[0]
        # take() wraps the -1 of an unknown ad to some row, which is overwritten below
        tensors: Tensors = {name: column.take(index) for name, column in self._columns.items()}
        if missing.size:
            bare = self._encoder.ads([{"ad_id": ids[position]} for position in missing.tolist()])
            for name, column in bare.items():
                tensors[name][missing] = column
        return AdColumns(tensors, int(missing.size))

    def raw(self, ad: AdId) -> dict[str, RawValue] | None:
        """Return an ad's raw features, `ad_id` and display texts included, or None if the catalogue lacks it."""
        row = self._index.row(str(ad))
        return None if row is None else unpack_ad(self._stored[row])

    def put(self, ads: Sequence[Packed]) -> None:
        """Add or replace ads; one that can't be read or encoded is left as it was and logged."""
        good: list[tuple[Packed, dict[str, RawValue]]] = []
        for ad_key, stored in ads:
            try:
                features = unpack_ad(stored)
                known_as = key(features.get("ad_id"))
            except LongsightError as error:
                _complain(ad_key, error)
                continue
            if known_as == ad_key:
                good.append(((ad_key, stored), features))
            else:
                _complain(ad_key, f"its ad_id {features['ad_id']!r} has another key")
        if not good:
            return
        try:
            encoded = self._encoder.ads([features for _, features in good])
        except LongsightError as error:
            if len(good) == 1:
                _complain(good[0][0][0], error)
                return
            for packed, _ in good:
                self.put([packed])
            return
        index = np.array([self._place(*packed, str(features["ad_id"])) for packed, features in good])
        self._grow(int(index.max()) + 1)
        for name, column in encoded.items():
            self._columns[name][index] = column

    def remove(self, ad_key: int) -> None:
        """Forget an ad, if it is there."""
        text = self._texts.pop(ad_key, None)
        if text is not None:
            row = self._index.row(text)
            assert row is not None, "an ad with a text but no row: this is a bug"
            self._index.remove(text)
            self._stored[row] = b""
            self._free.append(row)

    def _place(self, ad_key: int, stored: bytes, text: str) -> int:
        row = self._index.row(text)
        if row is None:
            row = self._free.pop() if self._free else len(self._stored)
            if row == len(self._stored):
                self._stored.append(b"")
            self._index.add(text, row)
            self._texts[ad_key] = text
        self._stored[row] = stored
        return row

    def _grow(self, rows: int) -> None:
        for name, column in self._columns.items():
            if rows > len(column):
                self._columns[name] = np.resize(column, max(rows, 2 * len(column)))


def _texts(ids: Sequence[AdId]) -> Sequence[str]:
    """Return ids as texts: an integer is its decimal text."""
    if int in set(map(type, ids)):
        return [str(ad) for ad in ids]
    return ids  # type: ignore[return-value]  # they are all str


def _complain(ad_key: int, error: Exception | str) -> None:
    logger.error("ad with key %s can't be used: %s", key_hex(ad_key), error)
