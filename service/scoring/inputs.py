"""Counts the values of a request that its vocabularies don't know, and those that are missing."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contract.encoder import Encoder
from contract.schema import GROUPS, Group, Schema
from service.metrics import Metrics

MOST_WAITING: Final = 16  # requests, whose tensors are kept so long
_PREFIX: Final[Mapping[Group, str]] = {
    "behavior": "history",
    "ad": "ad",
    "user": "user",
    "context": "context",
}


def counted_fields(schema: Schema) -> list[str]:
    """Return the label values of `oov_total` and `missing_total`: the categorical fields, as `ad.brand`."""
    return [
        f"{group}.{field.name}"
        for group in GROUPS
        for field in schema.group(group)
        if field.type == "categorical"
    ]


class InputCounter:
    """Counts rows of tables: 0 is missing, the rows below the first known one are out of vocabulary.

    Requests wait until there are `MOST_WAITING` of them, or the metrics are shown: many are counted in the time of one.

    Args:
        encoder: whose tensors are counted.
        metrics: bound to `counted_fields` of its schema.

    """

    def __init__(self, encoder: Encoder, metrics: Metrics) -> None:
        self._waiting: list[tuple[Mapping[str, NDArray[Any]], bool]] = []
        self._plan = []
        schema = encoder.schema
        for group in GROUPS:
            for field in schema.group(group):
                if field.vocabulary is None:
                    continue
                vocabulary = encoder.vocabularies[field.vocabulary]
                # every row of a hashed vocabulary is shared: nothing is out of it
                first_known = vocabulary.first_known_row if vocabulary.spec.kind == "exact" else 1
                label = f"{group}.{field.name}"
                self._plan.append(
                    (
                        f"{_PREFIX[group]}_{field.name}",
                        first_known,
                        metrics.oov[label],
                        metrics.missing[label],
                    )
                )
        metrics.when_counting(self.count_waiting)

    def count(self, tensors: Mapping[str, NDArray[Any]], *, has_history: bool) -> None:
        """Count one request, U = 1; without a history its one row of padding is not looked at."""
        self._waiting.append((tensors, has_history))
        if len(self._waiting) >= MOST_WAITING:
            self.count_waiting()

    def count_waiting(self) -> None:
        """Count the requests that wait."""
        waiting, self._waiting = self._waiting, []
        for name, first_known, oov, missing in self._plan:
            needs_history = name.startswith("history_")
            pieces = [
                tensors[name].ravel()
                for tensors, has_history in waiting
                if name in tensors and (has_history or not needs_history)
            ]
            if not pieces:
                continue
            rows = np.concatenate(pieces)
            not_known = int(np.count_nonzero(rows < first_known))
            absent = rows.size - int(np.count_nonzero(rows)) if not_known else 0
            if absent:
                missing.inc(absent)
            if not_known > absent:
                oov.inc(not_known - absent)
