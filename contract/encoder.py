"""The one encoder: raw records become tensors here, for trainer, exporter, evaluator and server alike.

Two steps, so that each party pays for what it needs: `pack_*` turns raw values into keys and float64 (what
datasets and stores keep), `encode_packed` turns those into table rows and transformed float32. Everything is
elementwise, so a value is encoded alike alone or among a million.

Shapes: U requests, L history steps, N candidates, R records.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from contract import keys
from contract.age import age_buckets, buckets_of_floats
from contract.errors import InputError, SchemaError
from contract.records import Records, empty_records
from contract.schema import LARGEST_NUMBER, Group, RawValue, Schema, SchemaField
from contract.vocabulary import Vocabulary, VocabularyStack

Array: TypeAlias = NDArray[Any]
Tensors: TypeAlias = dict[str, Array]


@dataclass(frozen=True)
class Transform:
    """What is done to a numeric field; `mean` and `deviation` are fitted on the training period."""

    kind: Literal["none", "log1p", "standard"] = "none"
    default: float = 0.0
    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def fit(cls, field: SchemaField, values: NDArray[np.float64]) -> "Transform":
        """Fit a field's transform on its values in the training period (NaN = missing)."""
        known = values[~np.isnan(values)]
        if field.transform != "standard" or not known.size:
            return cls(field.transform, field.default)
        # Of equal values: rounding may leave their deviation at 1e-17 rather than 0.
        deviation = float(known.std()) if known.min() < known.max() else 1.0
        return cls("standard", field.default, float(known.mean()), deviation if deviation > 0 else 1.0)

    def apply(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return transformed float32 values of the same shape; NaN is replaced by the default first."""
        filled = np.where(np.isnan(values), self.default, values).astype(np.float64)
        if self.kind == "log1p":
            filled = np.sign(filled) * np.log1p(np.abs(filled))
        elif self.kind == "standard":
            filled = (filled - self.mean) / self.deviation
        return filled.astype(np.float32)


class Encoder:
    """Turns raw requests into the tensors of the graphs.

    Args:
        schema: the fields.
        vocabularies: one per vocabulary of the schema.
        transforms: of the numeric fields, by `"<group>.<field>"`.
        history_length: L, the newest behaviours a model sees.

    Raises:
        SchemaError: a vocabulary or a transform of the schema is missing.

    """

    def __init__(
        self,
        schema: Schema,
        vocabularies: Mapping[str, Vocabulary],
        transforms: Mapping[str, Transform],
        *,
        history_length: int,
    ) -> None:
        self.schema = schema
        self.vocabularies = dict(vocabularies)
        self.transforms = dict(transforms)
        self.history_length = history_length
        self._whole_1L = np.ones((1, history_length), dtype=bool)
        self._whole_1L.flags.writeable = False
        if missing := schema.vocabularies.keys() - self.vocabularies.keys():
            raise SchemaError(f"no vocabulary {min(missing)!r}; the schema names it")
        numeric = {f"{group}.{field.name}" for group, field in numeric_fields(schema)}
        if absent := numeric - self.transforms.keys():
            raise SchemaError(f"no fitted transform for {min(absent)!r}; the schema names it")

        fields = [field for field in schema.behavior if field.vocabulary is not None]
        self._looked_up = [field.name for field in fields]
        self._stack = (
            VocabularyStack([self.vocabularies[str(field.vocabulary)] for field in fields])
            if fields
            else None
        )

    # ---------------------------------------------------------------- single fields

    def pack(self, group: Group, name: str, values: Sequence[RawValue]) -> Array:
        """Return the packed form `[n]` of raw values: uint64 keys (0 = missing) or float64 (NaN = missing).

        Raises:
            InputError: a value that the field can't hold; the message names the field and the position.

        """
        return pack_values(f"{group}.{name}", self.schema.field(group, name), values)

    def encode_packed(self, group: Group, name: str, packed: Array) -> Array:
        """Return rows (int64) or transformed values (float32) in the shape of `packed`."""
        return self._encode(group, self.schema.field(group, name), packed)

    def _encode(self, group: Group, field: SchemaField, packed: Array) -> Array:
        if field.vocabulary is not None:
            return self.vocabularies[field.vocabulary].rows(packed)
        return self.transforms[f"{group}.{field.name}"].apply(packed)

    def _column(self, group: Group, field: SchemaField, values: Sequence[RawValue]) -> Array:
        return self._encode(group, field, pack_values(f"{group}.{field.name}", field, values))

    # ---------------------------------------------------------------- histories

    def behaviors(self, records: Records) -> Tensors:
        """Encode packed records `[R]`: one `[R]` array per behaviour field, plus int64 `action`, `timestamp`."""
        columns = self.behavior_fields(records)
        columns["action"] = records["action"].astype(np.int64)
        columns["timestamp"] = records["timestamp"].astype(np.int64)
        return columns

    def behavior_fields(self, records: Records) -> Tensors:
        """Encode packed records `[R]`: one `[R]` array per behaviour field."""
        columns: Tensors = {}
        if self._stack is not None:
            keys_FR = np.empty((len(self._looked_up), len(records)), dtype=np.uint64)
            for index, name in enumerate(self._looked_up):
                keys_FR[index] = records[name]
            columns |= zip(self._looked_up, self._stack.rows(keys_FR), strict=True)
        for field in self.schema.behavior:
            if field.type == "numeric":
                columns[field.name] = self._encode(
                    "behavior", field, np.ascontiguousarray(records[field.name])
                )
        return columns

    def assemble_history(
        self,
        columns: Mapping[str, Array],
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
        times: NDArray[np.int64],
        *,
        length: int | None = None,
    ) -> Tensors:
        """Cut histories out of encoded columns: the newest L of `columns[f][starts[u]:ends[u]]`, right-aligned.

        Args:
            columns: of `behaviors`.
            starts: `[U]` first record of the user.
            ends: `[U]` one past the last record before the request.
            times: `[U]` request times, seconds.
            length: L of the result; by default the longest of these histories, at least 1, at most
                `history_length`.

        Returns:
            `history_<field>`, `history_action`, `history_age` `[U, L]` and `history_mask` bool `[U, L]`.

        """
        starts = np.maximum(starts, ends - self.history_length)
        if length is None:
            length = max(1, int((ends - starts).max(initial=1)))
        index_UL = ends[:, None] + np.arange(-length, 0)
        mask_UL = index_UL >= starts[:, None]
        padding_UL = None if mask_UL.all() else ~mask_UL
        if padding_UL is not None:
            index_UL[padding_UL] = 0
        tensors = {
            f"history_{name}": _gather(columns[name], index_UL, padding_UL)
            for name in (*(field.name for field in self.schema.behavior), "action")
        }
        age_UL = times[:, None] - _gather(columns["timestamp"], index_UL, None)
        tensors["history_age"] = np.where(mask_UL, age_buckets(age_UL), 0)
        tensors["history_mask"] = mask_UL
        return tensors

    def history(self, records: Sequence[Records], times: Sequence[int]) -> Tensors:
        """Encode the histories of U requests (0 is fine), each the records strictly before its time, oldest first."""
        if len(records) == 1 and len(records[0]):
            lone = self.lone_history(records[0], times[0])
            return lone | {"history_mask": lone["history_mask"].copy()}
        lengths = np.array([len(part) for part in records], dtype=np.int64)
        ends = np.cumsum(lengths)
        joined = np.concatenate(list(records)) if len(records) else empty_records(self.schema)
        if not len(joined):
            joined = empty_records(self.schema, 1)
        return self.assemble_history(
            self.behaviors(joined), ends - lengths, ends, np.asarray(times, dtype=np.int64)
        )

    def lone_history(self, records: Records, time: int, *, actions: bool = True) -> Tensors:
        """Encode one history that is not empty: nothing is padded, so nothing is gathered.

        `records` `[R]`, R > 0, are strictly before second `time`, oldest first. Returns what `assemble_history` does,
        without `history_action` if not `actions`; `history_mask` may not be written to.
        """
        records = records[-self.history_length :]
        tensors = {f"history_{name}": column[None] for name, column in self.behavior_fields(records).items()}
        if actions:
            tensors["history_action"] = records["action"].astype(np.int64)[None]
        age_L = np.subtract(time, records["timestamp"], dtype=np.float64)
        tensors["history_age"] = buckets_of_floats(age_L)[None]
        tensors["history_mask"] = self._whole_1L[:, : len(records)]
        return tensors

    # ---------------------------------------------------------------- ads, users, context

    def ads(self, ads: Sequence[Mapping[str, RawValue]]) -> Tensors:
        """Encode the raw features of N ads (an absent field is missing): `ad_<field>` `[N]`."""
        return {
            f"ad_{field.name}": self._column("ad", field, [ad.get(field.name) for ad in ads])
            for field in self.schema.ad
        }

    def users(self, users: Sequence[Mapping[str, RawValue]]) -> Tensors:
        """Encode the raw profiles of U users (an absent field is missing): `user_<field>` `[U]`."""
        return {
            f"user_{field.name}": self._column("user", field, [user.get(field.name) for user in users])
            for field in self.schema.user
        }

    def context(
        self,
        count: int,
        shared: Mapping[str, RawValue],
        per_candidate: Mapping[str, Sequence[RawValue]],
        *,
        serving: bool = True,
    ) -> Tensors:
        """Encode the context of one request's N = `count` candidates: `context_<field>` `[N]`.

        A field in `per_candidate` (N values, None = missing) wins over the same field in `shared`. Unless
        `serving` is false, a field with `at_serving` is that constant whatever was given.
        """
        tensors: Tensors = {}
        for field in self.schema.context:
            if serving and field.at_serving is not None:
                column = self._column("context", field, [field.at_serving])
            elif field.name in per_candidate:
                tensors[f"context_{field.name}"] = self._column("context", field, per_candidate[field.name])
                continue
            else:
                column = self._column("context", field, [shared.get(field.name)])
            tensors[f"context_{field.name}"] = np.repeat(column, count)
        return tensors


def numeric_fields(schema: Schema) -> list[tuple[Group, SchemaField]]:
    """Return the numeric fields of a schema with their groups, in order."""
    groups: tuple[Group, ...] = ("behavior", "ad", "user", "context")
    return [(group, field) for group in groups for field in schema.group(group) if field.type == "numeric"]


def pack_values(place: str, field: SchemaField, values: Sequence[RawValue]) -> Array:
    """Return uint64 keys (0 = missing) or float64 (NaN = missing) of raw values.

    Raises:
        InputError: a value that the field can't hold; `place` leads the message.

    """
    if field.type == "categorical":
        try:
            return keys.keys(values)
        except InputError as error:
            raise InputError(f"{place}: {error}") from error
    return np.array([_number(place, value) for value in values], dtype=np.float64)


def _number(place: str, value: RawValue) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise InputError(f"{place}: {value!r} is no number")
    try:
        number = float(value)
    except OverflowError as error:
        raise InputError(f"{place}: {value!r} is too large a number") from error
    if not math.isfinite(number):
        raise InputError(f"{place}: {value!r} is not finite; leave the field out (or null) if it is missing")
    if abs(number) > LARGEST_NUMBER:
        raise InputError(f"{place}: {value!r} is too large a number")
    return number


def _gather(column: Array, index: NDArray[np.int64], padding: NDArray[np.bool_] | None) -> Array:
    """Return `column[index]`, zero where there is `padding`."""
    values: Array = column.take(index)
    if padding is not None:
        values[padding] = 0
    return values
