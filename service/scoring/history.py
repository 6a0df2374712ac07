"""Encodes histories, and keeps them encoded: what a user's next request needs is then only what was added since.

What was written before a request counts in it. Of a user whose history is kept the store is asked for nothing, if it
tells of changes and there were none, or for the length and the last records alone (see `service.history.mark`), and
only what was appended is encoded. Whatever else happened to the value, the whole is read; it is in any case after
`WHOLE_AGAIN_S`, or after `FORGET_S` if the store tells of changes and there were none.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import numpy as np

from contract.encoder import Encoder, Tensors
from contract.records import empty_records
from service.history.result import History, Status
from service.layout import EXTRA_RECORDS
from service.scoring.kept import KeptHistory

WHOLE_AGAIN_S: Final = 60.0
FORGET_S: Final = 600.0
"""The store tells everything but what SWAPDB does, and of keys that run out only once it deletes them."""


@dataclass(frozen=True, slots=True)
class Behaviors:
    """What a request is scored by.

    Attributes:
        tensors: `history_*` `[1, L]`.
        length: behaviours; 0 where `tensors` hold one row of padding.
        newest_age_s: age of the newest at the request's time; None without any.
        status: as the store said, or `empty` where all are too new for the request.

    """

    tensors: Tensors
    length: int
    newest_age_s: int | None
    status: Status


class HistoryEncoder:
    """Encodes histories of one bundle, on the event loop.

    Args:
        encoder: of the bundle.
        inputs: the tensors that the graph takes.
        lag_s: a history ends this much before the request's time.
        cache_bytes: most memory of what is kept; 0 = nothing is.
        clock: monotonic seconds.

    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        inputs: Collection[str],
        lag_s: int,
        cache_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self._encoder = encoder
        self._length = encoder.history_length
        self._needs_actions = "history_action" in inputs
        self._lag_s = lag_s
        self._cache_bytes = cache_bytes
        self._clock = clock
        self._kept: OrderedDict[int, KeptHistory] = OrderedDict()
        self._kept_bytes = 0
        self._none = empty_records(encoder.schema)
        self._mask_1L = np.ones((1, self._length), dtype=bool)
        self._mask_1L.flags.writeable = False

    @property
    def kept_bytes(self) -> int:
        """Memory of what is kept."""
        return self._kept_bytes

    def find(self, user_key: int, at: int) -> KeptHistory | None:
        """Return what is kept of a user, if it reaches back far enough for a request at second `at`."""
        kept = self._kept.get(user_key)
        if kept is None:
            return None
        if self._clock() - kept.read_s > FORGET_S:
            self._forget(user_key)
            return None
        if not kept.complete and kept.before(at - self._lag_s) < self._length:
            return None
        self._kept.move_to_end(user_key)
        return kept

    def is_old(self, kept: KeptHistory) -> bool:
        """Tell whether the whole should be read again: appending is all that a mark sees for sure."""
        return self._clock() - kept.read_s > WHOLE_AGAIN_S

    def expected_length(self, history: History, kept: KeptHistory | None) -> int:
        """Return about how many behaviours `encode` will find, for a guess of the time of a run."""
        if not history.follows:
            return len(history.records)
        assert kept is not None, "an answer to a mark that nobody sent: this is a bug"
        return min(self._length, len(kept.times) + len(history.records))

    def encode(self, user_key: int, at: int, history: History, kept: KeptHistory | None) -> Behaviors:
        """Encode what was read for a request at second `at`; `kept` is what its mark was taken from, if it had one.

        Tensors are only to be read: some are views of what other requests see too.
        """
        if history.follows:
            assert kept is not None, "an answer to a mark that nobody sent: this is a bug"
            if len(history.records):
                assert history.mark is not None, "new records without a mark: this is a bug"
                kept = kept.extended(self._encoder, history.records, history.mark)
                self._keep(user_key, kept.newest(self._length + 2 * EXTRA_RECORDS))
            return self._cut(kept, at)
        if self._cache_bytes and history.mark is not None and history.held is not None:
            kept = KeptHistory.of(
                self._encoder, history.held, history.mark, self._clock(), actions=self._needs_actions
            )
            self._keep(user_key, kept)
            return self._cut(kept, at)
        if kept is not None and history.status in ("hit", "empty"):
            self._forget(user_key)  # what was kept is no longer what the store holds
        return self._lone(at, history)

    def _cut(self, kept: KeptHistory, at: int) -> Behaviors:
        stop = kept.before(at - self._lag_s)
        if not stop:
            return Behaviors(self._encoder.history([self._none], [at]), 0, None, "empty")
        start = max(0, stop - self._length)
        tensors = kept.tensors(start, stop, at)
        tensors["history_mask"] = self._mask_1L[:, : stop - start]
        return Behaviors(tensors, stop - start, at - int(kept.times[stop - 1]), "hit")

    def _lone(self, at: int, history: History) -> Behaviors:
        count = len(history.records)
        if count:
            tensors = self._encoder.lone_history(history.records, at, actions=self._needs_actions)
        else:
            tensors = self._encoder.history([history.records], [at])
        return Behaviors(tensors, count, history.newest_age_s, history.status)

    # ---------------------------------------------------------------- what is kept

    def _keep(self, user_key: int, kept: KeptHistory) -> None:
        self._forget(user_key)
        self._kept[user_key] = kept
        self._kept_bytes += kept.nbytes
        while self._kept_bytes > self._cache_bytes:
            self._forget(next(iter(self._kept)))

    def _forget(self, user_key: int) -> None:
        kept = self._kept.pop(user_key, None)
        if kept is not None:
            self._kept_bytes -= kept.nbytes
