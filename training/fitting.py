"""What is learned by counting: vocabularies and numeric transforms, from the training period alone."""

import numpy as np
from numpy.typing import NDArray

from contract.encoder import Array, Encoder, Transform, numeric_fields
from contract.schema import Group
from contract.vocabulary import Vocabulary
from training.dataset import Dataset

_GROUPS: tuple[Group, ...] = ("behavior", "ad", "user", "context")


def fit_encoder(dataset: Dataset, *, history_length: int) -> Encoder:
    """Build the vocabularies and transforms of a dataset's schema on its training period.

    An id counts once for every event before validation and once for every impression row of training (an
    ad's features count each time it is shown).

    Raises:
        DatasetError: the training split is empty.

    """
    values = _TrainingValues(dataset)
    seen: dict[str, list[NDArray[np.uint64]]] = {name: [] for name in dataset.schema.vocabularies}
    for group in _GROUPS:
        for field in dataset.schema.group(group):
            if field.vocabulary is not None:
                seen[field.vocabulary].append(values.column(group, field.name))
    vocabularies = {}
    for name, spec in dataset.schema.vocabularies.items():
        parts = seen[name] or [np.zeros(0, dtype=np.uint64)]
        keys, counts = np.unique(np.concatenate(parts), return_counts=True)
        vocabularies[name] = Vocabulary.build(spec, keys, counts)
    transforms = {
        f"{group}.{field.name}": Transform.fit(field, values.column(group, field.name).astype(np.float64))
        for group, field in numeric_fields(dataset.schema)
    }
    return Encoder(dataset.schema, vocabularies, transforms, history_length=history_length)


class _TrainingValues:
    """The packed values of the training period, each as often as it was seen."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        chosen = dataset.requests_of("train")
        self._users = dataset.requests["user"][chosen]
        self._rows = dataset.rows_of(chosen)
        self._ads = dataset.row("ad")[self._rows]
        self._events = dataset.records["timestamp"] < dataset.split.validation_from

    def column(self, group: Group, name: str) -> Array:
        if group == "behavior":
            events: Array = self._dataset.records[name][self._events]
            return events
        source = self._dataset.column(group, name)
        picked: Array = source[{"ad": self._ads, "user": self._users, "context": self._rows}[group]]
        return picked
