"""Which table rows a batch touches, so that a step pays for those and not for the table.

Knows nothing of optimisers. A batch's inputs are renumbered: 0 stays padding, 1.. are the distinct rows of
their vocabulary in this batch. Small tables `[k, D]` of those rows then stand in for the whole ones.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contract.encoder import Tensors
from training.models import CtrModel
from training.models.embedding import FeatureEmbedding
from training.models.features import FeatureSpec
from training.models.head import AdBias

Rows = dict[str, NDArray[np.int64]]
"""Distinct rows `[k]` by vocabulary; the first is always 0."""

_GROUPS: Final = ("ad", "user", "context")


def vocabulary_tables(model: CtrModel, *, at_least: int = 0) -> dict[str, str]:
    """Return the vocabulary of every parameter that has a row per id, by the parameter's name.

    Args:
        model: any.
        at_least: leave out tables with fewer rows.

    """
    found: dict[str, str] = {}
    inputs = vocabulary_inputs(model)
    for name, module in model.named_modules():
        if isinstance(module, FeatureEmbedding):
            found |= {f"{name}.table.v_{vocabulary}.weight": vocabulary for vocabulary in module.table_widths}
        elif isinstance(module, AdBias):
            found[f"{name}.table.weight"] = inputs[module.input]
    return {name: v for name, v in found.items() if len(model.get_parameter(name)) >= at_least}


def vocabulary_inputs(model: CtrModel) -> dict[str, str]:
    """Return the vocabulary of every input that holds table rows, by the input's name."""
    features = feature_spec_of(model)
    if features is None:
        return {}
    named = {f"history_{field.name}": field.vocabulary for field in features.behavior}
    for group in _GROUPS:
        named |= {f"{group}_{field.name}": field.vocabulary for field in getattr(features, group)}
    return {name: v for name, v in named.items() if v is not None and name in model.inputs}


def feature_spec_of(model: CtrModel) -> FeatureSpec | None:
    """Return the fields a model embeds; None for a model without embeddings."""
    return next((m.features for m in model.modules() if isinstance(m, FeatureEmbedding)), None)


class TouchedRows:
    """Renumbers batches. Holds one int32 per table row as scratch; not for two threads at once.

    Args:
        inputs: vocabulary by input.
        sizes: table rows by vocabulary; inputs of others stay as they are.

    """

    def __init__(self, inputs: Mapping[str, str], sizes: Mapping[str, int]) -> None:
        self._inputs: dict[str, list[str]] = {vocabulary: [] for vocabulary in sizes}
        for name, vocabulary in inputs.items():
            if vocabulary in sizes:
                self._inputs[vocabulary].append(name)
        # zeros, not empty: pages of rows that no batch touches are never made real
        self._place = {vocabulary: np.zeros(size, dtype=np.int32) for vocabulary, size in sizes.items()}

    def renumber(self, tensors: Mapping[str, NDArray[Any]]) -> tuple[Tensors, Rows]:
        """Return the tensors with rows renumbered, and the rows behind the numbers."""
        renumbered, touched = dict(tensors), {}
        for vocabulary, names in self._inputs.items():
            place = self._place[vocabulary]
            touched[vocabulary] = rows = _distinct(place, [tensors[name].ravel() for name in names])
            place[rows] = np.arange(len(rows), dtype=np.int32)
            renumbered |= {name: place.take(tensors[name]) for name in names}
        return renumbered, touched


def _distinct(place: NDArray[np.int32], parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return 0 and the other distinct rows, without a sort: of equal rows the last to write stays."""
    every = np.concatenate([*parts, np.zeros(0, dtype=np.int64)])
    order = np.arange(len(every), dtype=np.int32)
    place[every] = order
    kept = every[(place.take(every) == order) & (every != 0)]
    return np.concatenate([np.zeros(1, dtype=np.int64), kept])
