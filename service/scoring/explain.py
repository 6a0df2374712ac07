"""What each behaviour counted for each candidate: the strongest few, in words a person can read.

Explained requests run another graph, which gives weights beside the log-odds. It is opened when it is first asked
for, once, on a thread; who asks for no explanation pays neither time nor memory for it.

N candidates, L behaviours, K explanations of one candidate.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from contract.keys import MISSING, key_hex
from contract.records import Records
from contract.schema import RawValue, Schema
from contract.vocabulary import NameTable
from service.errors import InferenceError

Weigh: TypeAlias = Callable[[Mapping[str, NDArray[Any]]], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Tensors of one request in; `logit_UN` and `weight_UNL` out; called from several threads at once."""
Explanations: TypeAlias = list[list[dict[str, RawValue]]]

_PLACE: Final = np.uint64((1 << 32) - 1)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """What explanations are made with.

    Attributes:
        weigh: the graph.
        names: raw texts of the ids of those vocabularies that have some.

    """

    weigh: Weigh
    names: Mapping[str, NameTable]


class Explainer:
    """Explains by one bundle.

    Args:
        schema: of the bundle.
        open_: opens the bundle's second graph; slow, called on a thread.

    """

    def __init__(self, schema: Schema, open_: Callable[[], Opened]) -> None:
        self._schema = schema
        self._open = open_
        self._opening: asyncio.Task[Opened] | None = None

    async def explanation(self, records: Records, *, candidates: int, most: int) -> "Explanation":
        """Return an explanation to be filled; opens the graph if nobody has yet.

        Args:
            records: the history that the request is scored with, at least one.
            candidates: N.
            most: K, explanations of one candidate.

        Raises:
            InferenceError: the graph can't be opened; the next one who asks tries again.

        """
        if self._opening is None:
            self._opening = asyncio.create_task(asyncio.to_thread(self._open))
            self._opening.add_done_callback(self._on_opened)
        try:
            opened = await asyncio.shield(self._opening)  # it is everybody's, whoever leaves
        except Exception as error:
            raise InferenceError("the bundle's explanations can't be computed here") from error
        words = Words(self._schema, opened.names)
        return Explanation(opened.weigh, words, records, candidates=candidates, most=most)

    def _on_opened(self, opening: asyncio.Task[Opened]) -> None:
        if opening.cancelled() or opening.exception() is not None:
            self._opening = None
            logger.error("explanations can't be computed: %s", opening)
        else:
            logger.info("explanations are asked for: the graph that weighs behaviours is open")


class Explanation:
    """The behaviours that counted most for each candidate of one request, gathered run by run.

    Args:
        weigh: the graph.
        words: says what a behaviour was.
        records: the history `[L]`, oldest first.
        candidates: N.
        most: K; there are no more than L.

    """

    def __init__(self, weigh: Weigh, words: "Words", records: Records, *, candidates: int, most: int) -> None:
        self._weigh = weigh
        self._words = words
        self._records = records
        self._most = min(most, len(records))
        self._place_NK = np.zeros((candidates, self._most), dtype=np.int64)
        self._weight_NK = np.zeros((candidates, self._most), dtype=np.float32)

    def run(self, inputs: Mapping[str, NDArray[Any]], start: int) -> NDArray[np.float32]:
        """Weigh candidates `start` and following; return their `logit_UN`, U = 1."""
        logit_UN, weight_UNL = self._weigh(inputs)
        rows = slice(start, start + logit_UN.shape[1])
        self._place_NK[rows], self._weight_NK[rows] = strongest(weight_UNL[0], self._most)
        return logit_UN

    def entries(self) -> Explanations:
        """Return for each candidate its strongest behaviours; takes long for many, so call it on a thread."""
        used, where_NK = np.unique(self._place_NK, return_inverse=True)
        behaviors = self._words.of(self._records[used])
        pairs = zip(where_NK.reshape(self._place_NK.shape).tolist(), self._weight_NK.tolist(), strict=True)
        return [
            [{**behaviors[place], "weight": weight} for place, weight in zip(places, weights, strict=True)]
            for places, weights in pairs
        ]


def strongest(weight_NL: NDArray[np.float32], most: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the places and the weights `[N, K]` of the K = `most` <= L largest absolute weights.

    The largest comes first; of equal ones the newest, which is the one further right.

    Raises:
        InferenceError: one of them is no number.

    """
    length = weight_NL.shape[1]
    # the bits of a float32 >= 0 are ordered as it is: with its place behind, no two are equal
    strength_NL = np.abs(weight_NL, order="C").view(np.uint32).astype(np.uint64) << np.uint64(32)
    strength_NL |= np.arange(length, dtype=np.uint64)
    strength_NK = (
        np.partition(strength_NL, length - most, axis=1)[:, length - most :] if most else strength_NL[:, :0]
    )
    strength_NK.sort(axis=1)
    place_NK = (strength_NK[:, ::-1] & _PLACE).astype(np.int64)
    weight_NK = np.take_along_axis(weight_NL, place_NK, axis=1)
    if not np.isfinite(weight_NK).all():
        raise InferenceError("the model's weights are not numbers for some behaviours")
    return place_NK, weight_NK


class Words:
    """Says what a behaviour was: names where the bundle knows them, else `#` and the key in hex.

    Args:
        schema: of the bundle.
        names: raw texts, by vocabulary.

    """

    def __init__(self, schema: Schema, names: Mapping[str, NameTable]) -> None:
        self._schema = schema
        self._names = names

    def of(self, records: Records) -> list[dict[str, RawValue]]:
        """Return `timestamp`, `action` and the behaviour fields of each record; None = missing."""
        columns: dict[str, Sequence[RawValue]] = {
            "timestamp": records["timestamp"].tolist(),
            "action": [self._action(code) for code in records["action"].tolist()],
        }
        for field in self._schema.behavior:
            values = records[field.name]
            if field.vocabulary is None:
                # as it was written, 3.1, where the float64 of the float32 is 3.0999999046325684
                texts = values.astype(str).tolist()
                columns[field.name] = [
                    None if math.isnan(number := float(text)) else number for text in texts
                ]
            else:
                columns[field.name] = _texts(values, self._names.get(field.vocabulary))
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _action(self, code: int) -> str:
        actions = self._schema.actions
        return actions[code - 1] if 0 < code <= len(actions) else f"#{code}"


def _texts(keys: NDArray[np.uint64], names: NameTable | None) -> list[str | None]:
    """Return what ids are called: their names, else their keys; None for a missing one."""
    texts: list[str | None] = [None if key == MISSING else f"#{key_hex(key)}" for key in keys.tolist()]
    if names is not None:
        lengths, pieces = names.encoded(np.ascontiguousarray(keys))
        blob, ends = b"".join(pieces), np.cumsum(lengths)
        for index in np.flatnonzero(lengths).tolist():
            texts[index] = blob[ends[index] - lengths[index] : ends[index]].decode()
    return texts
