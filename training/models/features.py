"""What a model needs to know of a schema: fields, table sizes, and which ad field faces which behaviour field.

Knows nothing of raw values, files or training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

from contract.age import AGE_ROWS
from contract.schema import Group, Schema, SchemaField


@dataclass(frozen=True)
class FieldSpec:
    """One field as a tensor: table rows if categorical, values if numeric."""

    name: str
    """Name in the schema; the tensor is `<group>_<name>`, `history_<name>` for a behaviour."""
    kind: Literal["categorical", "numeric"]
    """Rows (int64) or values (float32)."""
    vocabulary: str | None = None
    """Vocabulary of a categorical field; fields that share it share a table."""
    matches: str | None = None
    """Ad fields: the behaviour field it is compared with."""


@dataclass(frozen=True)
class FeatureSpec:
    """The fields of every group in order, and the number of rows of every table."""

    behavior: tuple[FieldSpec, ...]
    ad: tuple[FieldSpec, ...]
    user: tuple[FieldSpec, ...]
    context: tuple[FieldSpec, ...]
    vocabulary_rows: dict[str, int]
    """Rows of each vocabulary, padding and out-of-vocabulary rows included."""
    action_rows: int
    """Number of actions + 1 (row 0 = padding)."""
    age_rows: int
    """Number of age buckets, the padding bucket 0 included."""

    @classmethod
    def from_schema(cls, schema: Schema, vocabulary_sizes: Mapping[str, int]) -> Self:
        """Describe a schema to the models; `vocabulary_sizes` holds `Vocabulary.size` by name."""

        def group(name: Group) -> tuple[FieldSpec, ...]:
            return tuple(_field_spec(field) for field in schema.group(name))

        return cls(
            behavior=group("behavior"),
            ad=group("ad"),
            user=group("user"),
            context=group("context"),
            vocabulary_rows=dict(vocabulary_sizes),
            action_rows=len(schema.actions) + 1,
            age_rows=AGE_ROWS,
        )

    @cached_property
    def pairs(self) -> tuple[tuple[FieldSpec, FieldSpec], ...]:
        """Matched (ad field, behaviour field) pairs with a common table, in the order of the ad fields.

        A numeric ad field that matches a numeric behaviour field forms no pair: both count as unmatched.
        """
        behaviors = {field.name: field for field in self.behavior}
        return tuple(
            (field, behaviors[field.matches])
            for field in self.ad
            if field.matches is not None and field.kind == "categorical"
        )

    @cached_property
    def unmatched_behavior(self) -> tuple[FieldSpec, ...]:
        """Behaviour fields outside every pair."""
        matched = {behavior.name for _, behavior in self.pairs}
        return tuple(field for field in self.behavior if field.name not in matched)

    @cached_property
    def unmatched_ad(self) -> tuple[FieldSpec, ...]:
        """Ad fields outside every pair."""
        matched = {ad.name for ad, _ in self.pairs}
        return tuple(field for field in self.ad if field.name not in matched)

    @cached_property
    def identity(self) -> FieldSpec | None:
        """The field that tells ads apart: `ad_id` if it's categorical, else the first categorical ad field."""
        categorical = [field for field in self.ad if field.kind == "categorical"]
        return next((field for field in categorical if field.name == "ad_id"), next(iter(categorical), None))

    def rows(self, field: FieldSpec) -> int:
        """Return the number of table rows of a categorical field."""
        return self.vocabulary_rows[str(field.vocabulary)]


def _field_spec(field: SchemaField) -> FieldSpec:
    return FieldSpec(field.name, field.type, field.vocabulary, field.matches)
