"""Keys become table rows: 0 = padding or missing, 1..B = out of vocabulary by key mod B, then known ids by key.

An exact vocabulary is looked up in a two-choice (cuckoo) hash table: a key is in one of two slots, so a whole
array is answered by three gathers whatever it holds. 1,000 keys of 70 k ids: ~14 us, where binary search takes
~76 us and would cost more than the rest of a request's encoding.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from contract.errors import InputError
from contract.schema import VocabularySpec

Keys: TypeAlias = NDArray[np.uint64]

_ONE: Final = np.uint64(1)
_MAX_ROUNDS: Final = 500
_MIN_BITS: Final = 4
_TEXTS_AT_ONCE: Final = 1 << 18


class _CuckooTable:
    """Where each of the given distinct non-zero keys stands; `find` is vectorised.

    `keys` are already uniform hashes: the top bits choose the slot in the first half, the bits from the
    bottom the slot in the second. Each half has room for twice the keys, far below the threshold at which
    insertion fails.
    """

    def __init__(self, known: Keys) -> None:
        bits = max(_MIN_BITS, int(2 * len(known)).bit_length())
        while True:
            slots = self._place(known, bits)
            if slots is not None:
                break
            bits += 1
        self.bits = bits
        self.keys = np.zeros(2 << bits, dtype=np.uint64)
        self.ranks = np.full(2 << bits, -1, dtype=np.int64)
        self.keys[slots] = known
        self.ranks[slots] = np.arange(len(known))

    @staticmethod
    def _place(known: Keys, bits: int) -> NDArray[np.int64] | None:
        """Return the slot of each key, or None if `bits` are too few: all homeless keys move at once."""
        first = (known >> np.uint64(64 - bits)).astype(np.int64)
        second = ((known & np.uint64((1 << bits) - 1)) + np.uint64(1 << bits)).astype(np.int64)
        owner = np.full(2 << bits, -1, dtype=np.int64)
        slots = first.copy()
        homeless = np.arange(len(known))
        for _ in range(_MAX_ROUNDS):
            evicted = np.unique(owner[slots[homeless]])
            owner[slots[homeless]] = homeless
            lost = homeless[owner[slots[homeless]] != homeless]
            homeless = np.concatenate([lost, evicted[evicted >= 0]])
            if not homeless.size:
                return slots
            slots[homeless] = np.where(slots[homeless] == first[homeless], second[homeless], first[homeless])
        return None


class Vocabulary:
    """The rows of one vocabulary.

    Args:
        spec: exact or hashed, and its sizes.
        known: exact: the known keys, strictly ascending, none 0. hashed: empty.

    Raises:
        InputError: `known` is not strictly ascending, holds 0, or comes with a hashed vocabulary.

    """

    def __init__(self, spec: VocabularySpec, known: Keys) -> None:
        if spec.kind == "hashed" and len(known):
            raise InputError("a hashed vocabulary has no known ids")
        if len(known) and (known[0] == 0 or not bool((known[1:] > known[:-1]).all())):
            raise InputError("the known keys of a vocabulary must be non-zero and strictly ascending")
        self.spec = spec
        self.known = known
        self.buckets = spec.oov_buckets if spec.kind == "exact" else int(spec.rows or 1)
        self._stack: VocabularyStack | None = None

    @classmethod
    def build(cls, spec: VocabularySpec, seen: Keys, counts: NDArray[np.int64]) -> Self:
        """Build from distinct keys `[k]` and how often each was seen in the training period."""
        if spec.kind == "hashed":
            return cls(spec, np.zeros(0, dtype=np.uint64))
        return cls(spec, np.sort(seen[(counts >= spec.min_count) & (seen != 0)]))

    @property
    def size(self) -> int:
        """Rows of the table: 1 (padding) + buckets + known ids."""
        return 1 + self.buckets + len(self.known)

    @property
    def first_known_row(self) -> int:
        """The row of the smallest known key; rows 1 up to it are out of vocabulary."""
        return 1 + self.buckets

    def rows(self, keys: Keys) -> NDArray[np.int64]:
        """Return the row of each key, in an array of the same shape; key 0 gives row 0."""
        if self._stack is None:
            self._stack = VocabularyStack([self])
        keys = np.ascontiguousarray(keys, dtype=np.uint64)
        return self._stack.rows(keys.reshape(1, -1)).reshape(keys.shape)

    def table(self) -> _CuckooTable:
        """Return the hash table of the known keys; its ranks count from 0."""
        return _CuckooTable(self.known)


class VocabularyStack:
    """Several vocabularies looked up at once: numpy's price per call is paid once, not once a field.

    F vocabularies, R keys each. The hash tables stand behind each other in one array.
    """

    def __init__(self, vocabularies: Sequence[Vocabulary]) -> None:
        tables = [vocabulary.table() for vocabulary in vocabularies]
        starts = np.cumsum([0, *(len(table.keys) for table in tables)])[:-1]
        column = [
            (np.uint64(64 - t.bits), np.uint64((1 << t.bits) - 1), np.uint64(1 << t.bits)) for t in tables
        ]
        shift, mask, half = (
            np.array(values, dtype=np.uint64)[:, None] for values in zip(*column, strict=True)
        )
        first = starts.astype(np.uint64)[:, None]
        self._shift_F1, self._first_F1 = shift, first
        self._mask_F, self._second_F = mask[:, 0], (first + half)[:, 0]
        self._buckets_F = np.array([v.buckets for v in vocabularies], dtype=np.uint64)
        self._keys = np.concatenate([table.keys for table in tables])
        # an empty slot holds key 0 and row 0: missing finds itself
        self._rows = np.concatenate(
            [
                np.where(table.ranks < 0, 0, table.ranks + vocabulary.first_known_row)
                for table, vocabulary in zip(tables, vocabularies, strict=True)
            ]
        )

    def rows(self, keys_FR: Keys) -> NDArray[np.int64]:
        """Return the rows `[F, R]` of contiguous keys `[F, R]`, row f by vocabulary f."""
        slots_FR = ((keys_FR >> self._shift_F1) + self._first_F1).view(np.int64)
        rows_FR: NDArray[np.int64] = self._rows.take(slots_FR)
        elsewhere = np.flatnonzero(self._keys.take(slots_FR) != keys_FR)  # about one key in twelve
        if elsewhere.size:
            vocabulary = elsewhere // keys_FR.shape[1]
            rows_FR.reshape(-1)[elsewhere] = self._second_look(keys_FR.reshape(-1)[elsewhere], vocabulary)
        return rows_FR

    def _second_look(self, keys: Keys, vocabulary: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of keys `[k]` that are not in their first slot."""
        slots = ((keys & self._mask_F[vocabulary]) + self._second_F[vocabulary]).view(np.int64)
        rows: NDArray[np.int64] = self._rows.take(slots)
        unknown = np.flatnonzero(self._keys.take(slots) != keys)
        if unknown.size:
            strangers = keys[unknown]
            shared = (strangers % self._buckets_F[vocabulary[unknown]] + _ONE).astype(np.int64)
            rows[unknown] = np.where(strangers == 0, 0, shared)
        return rows


class NameTable:
    """The raw texts of a vocabulary's known ids, where a person reads; mapped, so unread texts cost nothing.

    File: uint64 count, uint64 offsets `[count + 1]`, then the UTF-8 texts, in the order of the known keys.
    """

    def __init__(self, known: Keys, offsets: NDArray[np.uint64], blob: NDArray[np.uint8]) -> None:
        self._known = known
        self._offsets = offsets
        self._blob = blob

    @staticmethod
    def write(path: Path, texts: list[str]) -> None:
        """Write the texts of the known keys, in their order."""
        encoded = [text.encode() for text in texts]
        lengths = np.array([len(text) for text in encoded], dtype=np.int64)
        NameTable.write_encoded(path, lengths, [b"".join(encoded)])

    @staticmethod
    def write_encoded(path: Path, lengths: NDArray[np.int64], blobs: Iterable[bytes]) -> None:
        """Write texts given by the lengths `[n]` of their UTF-8 bytes and, piece by piece, those bytes."""
        offsets = np.zeros(len(lengths) + 1, dtype="<u8")
        np.cumsum(lengths, out=offsets[1:])
        with path.open("wb") as file:
            file.write(np.array([len(lengths)], dtype="<u8").tobytes())
            file.write(offsets.tobytes())
            for blob in blobs:
                file.write(blob)

    @classmethod
    def open(cls, path: Path, known: Keys) -> Self:
        """Map the texts of `known`.

        Raises:
            InputError: the file does not hold exactly one text for each known key.

        """
        data = np.memmap(path, dtype=np.uint8, mode="r")
        count = int(data[:8].view("<u8")[0]) if len(data) >= 8 else -1
        end = 8 * (count + 2)
        if count != len(known) or len(data) < end:
            raise InputError(f"{path}: holds {count} names for {len(known)} ids; write the bundle again")
        offsets = data[8:end].view("<u8")
        if int(offsets[-1]) != len(data) - end:
            raise InputError(f"{path}: is {len(data) - end} bytes of text, expected {int(offsets[-1])}")
        return cls(known, offsets, data[end:])

    def get(self, key: int) -> str | None:
        """Return the text of a key, or None where the id is not a known one."""
        index = int(np.searchsorted(self._known, np.uint64(key)))
        if index == len(self._known) or int(self._known[index]) != key:
            return None
        return self._blob[int(self._offsets[index]) : int(self._offsets[index + 1])].tobytes().decode()

    def encoded(self, keys: Keys) -> tuple[NDArray[np.int64], Iterator[bytes]]:
        """Return what `write_encoded` takes for the texts of `keys` `[n]`: lengths, and bytes in pieces.

        A key that is not a known one has an empty text.
        """
        place = np.searchsorted(self._known, keys)
        place[place == len(self._known)] = 0
        found = self._known[place] == keys if len(self._known) else np.zeros(len(keys), dtype=bool)
        starts = np.where(found, self._offsets[place], 0).astype(np.int64)
        ends = np.where(found, self._offsets[np.minimum(place + 1, len(self._known))], 0).astype(np.int64)
        lengths = ends - starts
        return lengths, self._pieces(starts, lengths)

    def _pieces(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Iterator[bytes]:
        """Yield the bytes of texts, some at a time."""
        for begin in range(0, len(starts), _TEXTS_AT_ONCE):
            part = lengths[begin : begin + _TEXTS_AT_ONCE]
            shift = starts[begin : begin + _TEXTS_AT_ONCE] - (np.cumsum(part) - part)
            yield self._blob[np.repeat(shift, part) + np.arange(int(part.sum()))].tobytes()
