"""What is learned by counting: vocabularies and numeric transforms, from the training period alone."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.encoder import Array, Encoder, Transform, numeric_fields
from contract.schema import Group
from contract.vocabulary import Vocabulary
from training.dataset import Dataset

_GROUPS: tuple[Group, ...] = ("behavior", "ad", "user", "context")
_BLOCK: Final = 1 << 22  # values counted at once: what is held at a time is this and the distinct ids


def fit_encoder(dataset: Dataset, *, history_length: int) -> Encoder:
    """Build the vocabularies and transforms of a dataset's schema on its training period.

    An id counts once for every event before validation and once for every impression row of training (an
    ad's features count each time it is shown).

    Raises:
        DatasetError: the training split is empty.

    """
    values = _TrainingValues(dataset)
    tallies = {name: _Tally() for name in dataset.schema.vocabularies}
    for group in _GROUPS:
        for field in dataset.schema.group(group):
            if field.vocabulary is not None:
                for keys, times in values.counted(group, field.name):
                    tallies[field.vocabulary].add(keys, times)
    vocabularies = {
        name: Vocabulary.build(spec, tallies[name].keys, tallies[name].counts)
        for name, spec in dataset.schema.vocabularies.items()
    }
    nothing = np.zeros(0)
    transforms = {
        f"{group}.{field.name}": Transform.fit(
            field,
            values.column(group, field.name).astype(np.float64) if field.transform == "standard" else nothing,
        )
        for group, field in numeric_fields(dataset.schema)
    }
    return Encoder(dataset.schema, vocabularies, transforms, history_length=history_length)


class _Tally:
    """How often each key was seen; holds the distinct keys alone."""

    def __init__(self) -> None:
        self.keys = np.zeros(0, dtype=np.uint64)
        """Ascending."""
        self.counts = np.zeros(0, dtype=np.int64)

    def add(self, keys: Array, times: NDArray[np.int64] | None) -> None:
        """Count keys, each once or as often as `times` says."""
        if times is None:
            distinct, counts = np.unique(keys, return_counts=True)
        else:
            distinct, counts = _summed(keys[times > 0], times[times > 0])
        if not len(self.keys):
            self.keys, self.counts = distinct, counts
        else:
            self.keys, self.counts = _summed(
                np.concatenate([self.keys, distinct]), np.concatenate([self.counts, counts])
            )


class _TrainingValues:
    """The packed values of the training period."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        chosen = dataset.requests_of("train")
        self._users = dataset.requests["user"][chosen]
        self._rows = dataset.rows_of(chosen)
        self._ads = dataset.row("ad")[self._rows]
        self._until = dataset.split.validation_from

    def column(self, group: Group, name: str) -> Array:
        """Return every value as often as it was seen."""
        if group == "behavior":
            return np.concatenate(list(self._events(name)))
        source = self._dataset.column(group, name)
        picked: Array = source[{"ad": self._ads, "user": self._users, "context": self._rows}[group]]
        return picked

    def counted(self, group: Group, name: str) -> Iterator[tuple[Array, NDArray[np.int64] | None]]:
        """Yield values and how often each was seen there (None: once), block by block."""
        if group == "behavior":
            for events in self._events(name):
                yield events, None
            return
        source = self._dataset.column(group, name)
        if group == "context":
            for begin in range(0, len(self._rows), _BLOCK):
                yield source[self._rows[begin : begin + _BLOCK]], None
            return
        members = self._ads if group == "ad" else self._users
        yield np.asarray(source), np.bincount(members, minlength=len(source))

    def _events(self, name: str) -> Iterator[Array]:
        records = self._dataset.records
        yield records[name][:0]
        for begin in range(0, len(records), _BLOCK):
            block = records[begin : begin + _BLOCK]
            yield block[name][block["timestamp"] < self._until]


def _summed(keys: Array, counts: NDArray[np.int64]) -> tuple[Array, NDArray[np.int64]]:
    """Return distinct keys, ascending, and the sums of their counts."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(keys) else order
    return ordered[first], np.add.reduceat(counts[order], first) if len(keys) else counts
