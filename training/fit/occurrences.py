"""How often every table row occurs in training: n of the mini-batch aware L2."""

import numpy as np
from numpy.typing import NDArray

from contract.encoder import Encoder
from contract.schema import Group
from training.dataset import Dataset

_GROUPS: tuple[Group, ...] = ("ad", "user", "context")


def occurrences(dataset: Dataset, encoder: Encoder) -> dict[str, NDArray[np.float32]]:
    """Return the occurrences `[rows]` of every row, by vocabulary, in one pass over the training split.

    A behaviour counts once for every request whose history (its newest L) holds it, a user field once a
    request, ad and context fields once an impression row. A history's records are a range, so nothing of
    length requests x L is made.
    """
    chosen = dataset.requests_of("train")
    requests, rows = dataset.requests[chosen], dataset.rows_of(chosen)
    starts = np.maximum(requests["start"], requests["end"] - encoder.history_length)
    edges = np.zeros(len(dataset.records) + 1, dtype=np.int64)
    np.add.at(edges, starts, 1)
    np.subtract.at(edges, requests["end"], 1)
    seen = np.cumsum(edges[:-1])
    found = {name: np.zeros(v.size) for name, v in encoder.vocabularies.items()}
    for field in dataset.schema.behavior:
        if field.vocabulary is not None:
            place = encoder.encode_packed("behavior", field.name, np.asarray(dataset.records[field.name]))
            found[field.vocabulary] += np.bincount(
                place, weights=seen, minlength=len(found[field.vocabulary])
            )
    members = {"ad": dataset.row("ad")[rows], "user": requests["user"], "context": rows}
    for group in _GROUPS:
        for field in dataset.schema.group(group):
            if field.vocabulary is not None:
                place = encoder.encode_packed(
                    group, field.name, dataset.column(group, field.name)[members[group]]
                )
                found[field.vocabulary] += np.bincount(place, minlength=len(found[field.vocabulary]))
    return {name: counts.astype(np.float32) for name, counts in found.items()}
