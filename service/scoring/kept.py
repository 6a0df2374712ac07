"""One user's encoded history, kept for the user's next requests."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from contract.age import buckets_of_floats
from contract.encoder import Encoder, Tensors
from contract.records import Records, count_before
from service.history.mark import Mark

ENTRY_BYTES: Final = 800  # of an entry beside its arrays and its mark
ARRAY_BYTES: Final = 150  # of an array beside its values
_NARROW: Final = np.dtype(np.int32)  # no table has as many rows


@dataclass(frozen=True, slots=True)
class KeptHistory:
    """The newest records of a user, encoded; never changed, so that requests may hold it while others go on.

    Attributes:
        columns: `[R]` by behaviour field, and `action` if the graph takes it; rows as int32, actions as uint8.
        times: `[R]` uint32, ascending.
        mark: of the value as last read.
        read_s: when the whole was read; on the encoder's clock.
        complete: the store held nothing older.

    """

    columns: Mapping[str, NDArray[Any]]
    times: NDArray[np.uint32]
    mark: Mark
    read_s: float
    complete: bool

    @classmethod
    def of(cls, encoder: Encoder, records: Records, mark: Mark, read_s: float, *, actions: bool) -> Self:
        """Encode what was read, oldest first, with or without the actions."""
        complete = records.nbytes == mark.total_bytes
        columns = _encoded(encoder, records, actions=actions)
        return cls(columns, records["timestamp"].copy(), mark=mark, read_s=read_s, complete=complete)

    def __post_init__(self) -> None:
        """Seal the arrays: tensors of requests may be views of them."""
        for array in (self.times, *self.columns.values()):
            array.flags.writeable = False

    def extended(self, encoder: Encoder, appended: Records, mark: Mark) -> "KeptHistory":
        """Return this with what was appended since."""
        columns = _encoded(encoder, appended, actions="action" in self.columns)
        return KeptHistory(
            {name: np.concatenate([column, columns[name]]) for name, column in self.columns.items()},
            np.concatenate([self.times, appended["timestamp"]]),
            mark=mark,
            read_s=self.read_s,
            complete=self.complete,
        )

    def newest(self, count: int) -> "KeptHistory":
        """Return this without all but the newest `count` records."""
        if len(self.times) <= count:
            return self
        columns = {name: column[-count:].copy() for name, column in self.columns.items()}
        times = self.times[-count:].copy()
        return KeptHistory(columns, times, mark=self.mark, read_s=self.read_s, complete=False)

    @property
    def nbytes(self) -> int:
        """Memory, roughly."""
        arrays = (self.times, *self.columns.values())
        return sum(array.nbytes + ARRAY_BYTES for array in arrays) + len(self.mark.end) + ENTRY_BYTES

    def before(self, cut: int) -> int:
        """Return how many records lie before second `cut`."""
        return count_before(self.times, cut)

    def tensors(self, start: int, stop: int, at: int) -> Tensors:
        """Return `history_*` `[1, stop - start]` of some of the records for a request at second `at`, but no mask."""
        tensors = {
            f"history_{name}": _wide(column[start:stop])[None] for name, column in self.columns.items()
        }
        age_L = np.subtract(at, self.times[start:stop], dtype=np.float64)
        tensors["history_age"] = buckets_of_floats(age_L)[None]
        return tensors


def _encoded(encoder: Encoder, records: Records, *, actions: bool) -> dict[str, NDArray[Any]]:
    columns = {
        name: column.astype(_NARROW) if column.dtype == np.int64 else column
        for name, column in encoder.behavior_fields(records).items()
    }
    if actions:
        columns["action"] = records["action"].copy()
    return columns


def _wide(column: NDArray[Any]) -> NDArray[Any]:
    return column if column.dtype == np.float32 else column.astype(np.int64)
