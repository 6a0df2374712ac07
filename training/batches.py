"""Request-major batches: histories `[U, L]`, ads `[U, N]`, short histories and few ads grouped together.

U requests, L history steps, N candidates. Encoding is elementwise, so every column of the dataset is encoded
once and a batch only gathers; behaviours too many to keep encoded in memory are encoded batch by batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.encoder import Encoder, Tensors
from training.dataset import Dataset

_POOL_BATCHES: Final = 64  # requests are shuffled, then sorted by size within pools of this many batches
_LENGTH_STEP: Final = 32  # histories within this many steps count as equally long
ENCODED_BYTES: Final = 2_000_000_000
"""Largest size of all behaviours encoded; encoding a batch takes five times as long as gathering it."""


@dataclass(frozen=True)
class Batch:
    """U requests.

    Attributes:
        tensors: the inputs a model takes.
        clicked: float32 `[U, N]`.
        valid: bool `[U, N]`, false where a request has fewer than N candidates.
        row: int64 `[U, N]`, the impression row (request-major), 0 where not valid.
        user: int64 `[U]`, whose requests they are.

    """

    tensors: Tensors
    clicked: NDArray[np.float32]
    valid: NDArray[np.bool_]
    row: NDArray[np.int64]
    user: NDArray[np.int64]


class BatchSource:
    """Cuts batches out of a dataset.

    Args:
        dataset: the requests.
        encoder: the one encoder.
        inputs: names of the tensors the model takes; no other is made.

    """

    def __init__(self, dataset: Dataset, encoder: Encoder, inputs: tuple[str, ...]) -> None:
        self._requests = dataset.requests[:]
        self._encoder = encoder
        self._inputs = inputs
        self._row_ad = np.asarray(dataset.row("ad"))
        self._clicked = np.asarray(dataset.row("clicked")).astype(np.float32)
        self._needs_history = any(name.startswith("history_") for name in inputs)
        self._records = np.asarray(dataset.records)
        self._behaviors: Tensors | None = None
        encoded_bytes = 8 * len(self._records) * (len(dataset.schema.behavior) + 2)
        if self._needs_history and encoded_bytes <= ENCODED_BYTES:
            self._behaviors = encoder.behaviors(self._records)
        schema = dataset.schema
        self._ads = self._columns(dataset, "ad", [field.name for field in schema.ad])
        self._users = self._columns(dataset, "user", [field.name for field in schema.user])
        self._context = self._columns(dataset, "context", [field.name for field in schema.context])
        self._constants = {
            name: value[0] for name, value in encoder.context(1, {}, {}).items() if name in self._at_serving()
        }

    def _columns(self, dataset: Dataset, group: str, names: list[str]) -> Tensors:
        wanted = [name for name in names if f"{group}_{name}" in self._inputs]
        return {
            f"{group}_{name}": self._encoder.encode_packed(group, name, dataset.column(group, name))  # type: ignore[arg-type]
            for name in wanted
        }

    def _at_serving(self) -> set[str]:
        return {
            f"context_{field.name}" for field in self._encoder.schema.context if field.at_serving is not None
        }

    def batch(self, chosen: NDArray[np.int64], *, serving: bool) -> Batch:
        """Return the batch of these requests; `serving` replaces `at_serving` fields by their constants."""
        requests = self._requests[chosen]
        counts = requests["rows"]
        row_UN = requests["first_row"][:, None] + np.arange(int(counts.max(initial=1)))
        valid_UN = np.arange(row_UN.shape[1]) < counts[:, None]
        row_UN = np.where(valid_UN, row_UN, 0)
        ad_UN = self._row_ad.take(row_UN)
        tensors: Tensors = {}
        if self._needs_history:
            tensors = self._histories(requests)
        tensors |= {name: np.where(valid_UN, column.take(ad_UN), 0) for name, column in self._ads.items()}
        tensors |= {name: column.take(requests["user"]) for name, column in self._users.items()}
        for name, column in self._context.items():
            if serving and name in self._constants:
                tensors[name] = np.full(row_UN.shape, self._constants[name])
            else:
                tensors[name] = np.where(valid_UN, column.take(row_UN), 0)
        tensors = {name: _tensor(tensors[name]) for name in self._inputs}
        clicked_UN = np.where(valid_UN, self._clicked.take(row_UN), 0).astype(np.float32)
        return Batch(tensors, clicked_UN, valid_UN, row_UN, requests["user"].astype(np.int64))

    def _histories(self, requests: NDArray[np.void]) -> Tensors:
        starts, ends, times = requests["start"], requests["end"], requests["timestamp"]
        if self._behaviors is not None:
            return self._encoder.assemble_history(self._behaviors, starts, ends, times)
        starts = np.maximum(starts, ends - self._encoder.history_length)
        slices = [self._records[start:end] for start, end in zip(starts, ends, strict=True)]
        return self._encoder.history(slices, times.tolist())

    def ad_rows(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the encoded ad field `name` (`ad_<field>`) of impression rows."""
        encoded: NDArray[np.int64] = self._ads[name].take(self._row_ad[rows])
        return encoded

    def sizes(self, chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return history length (at most L) and candidates of each request."""
        requests = self._requests[chosen]
        length = np.minimum(requests["end"] - requests["start"], self._encoder.history_length)
        return length, requests["rows"]


def training_order(
    source: BatchSource, chosen: NDArray[np.int64], *, requests: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Return shuffled batches of at most `requests` requests each, of similar length and candidates."""
    shuffled = generator.permutation(chosen)
    batches: list[NDArray[np.int64]] = []
    for begin in range(0, len(shuffled), _POOL_BATCHES * requests):
        pool = shuffled[begin : begin + _POOL_BATCHES * requests]
        length, rows = source.sizes(pool)
        ordered = pool[np.lexsort((rows, length // _LENGTH_STEP))]
        batches += [ordered[i : i + requests] for i in range(0, len(ordered), requests)]
    return [batches[i] for i in generator.permutation(len(batches))]


def scoring_order(
    source: BatchSource, chosen: NDArray[np.int64], *, requests: int
) -> Iterator[NDArray[np.int64]]:
    """Yield batches in order of size: the cheapest way through a split."""
    length, rows = source.sizes(chosen)
    ordered = chosen[np.lexsort((rows, length // _LENGTH_STEP))]
    for begin in range(0, len(ordered), requests):
        yield ordered[begin : begin + requests]


def _tensor(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return values in a dtype of the graph: int64, float32 or bool."""
    wanted = np.float32 if values.dtype.kind == "f" else values.dtype
    return np.ascontiguousarray(values, dtype=wanted)
