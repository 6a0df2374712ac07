"""The schema of a log: which fields exist, how each becomes a tensor, and what is matched with what.

Written as TOML in a log folder, carried as JSON with the same keys in a dataset, a run and a bundle.
"""

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from contract import keys
from contract.errors import SchemaError

Group: TypeAlias = Literal["behavior", "ad", "user", "context"]
Kind: TypeAlias = Literal["categorical", "numeric"]
RawValue: TypeAlias = str | int | float | None
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)]

GROUPS: Final[tuple[Group, ...]] = ("behavior", "ad", "user", "context")
DEFAULT_ACTIONS: Final = ("event",)
LARGEST_NUMBER: Final = 1e30  # float32 holds 3.4e38, and what a model makes of a number must fit as well
LAST_SECOND: Final = 2**32 - 1  # a record keeps its time in 32 bits; later is milliseconds, surely
MAX_ROWS: Final = 1_000_000_000  # of one vocabulary
MAX_ACTIONS: Final = 255  # an action code is one byte, 0 = padding
_RESERVED: Final[dict[str, frozenset[str]]] = {
    # history_mask, history_age and history_action are inputs of every graph already
    "behavior": frozenset({"user_id", "timestamp", "action", "mask", "age"}),
    "context": frozenset({"user_id", "ad_id", "timestamp", "clicked", "request_id", "sampling_rate"}),
    "ad": frozenset(),
    "user": frozenset(),
}


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class VocabularySpec(_Frozen):
    """How the ids of one or more fields become table rows."""

    kind: Literal["exact", "hashed"]
    min_count: int = Field(
        1, ge=1, strict=True, description="exact: an id seen less often in training is out of vocabulary."
    )
    oov_buckets: int = Field(
        1, ge=1, le=MAX_ROWS, strict=True, description="exact: rows shared by all unknown ids."
    )
    rows: int | None = Field(
        None, ge=1, le=MAX_ROWS, strict=True, description="hashed: rows that all ids share."
    )

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind == "hashed" and self.rows is None:
            raise ValueError("a hashed vocabulary needs rows = <number>")
        if self.kind == "hashed" and {"min_count", "oov_buckets"} & self.model_fields_set:
            raise ValueError("min_count and oov_buckets belong to exact vocabularies")
        if self.kind == "exact" and self.rows is not None:
            raise ValueError("rows belongs to hashed vocabularies")
        return self


class SchemaField(_Frozen):
    """One field of an ad, a behaviour, a user or a context."""

    name: Name
    type: Kind
    vocabulary: str | None = None
    transform: Literal["none", "log1p", "standard"] = "none"
    default: float = Field(
        0.0,
        ge=-LARGEST_NUMBER,
        le=LARGEST_NUMBER,
        strict=True,
        description="numeric: the value of a missing one, before the transform.",
    )
    matches: str | None = Field(None, description="ad: the behaviour field it is compared with.")
    optional: bool = Field(
        default=False, strict=True, description="behavior, ad: a row of the log may lack it."
    )
    at_serving: str | int | float | None = Field(
        None, description="context: the constant used outside training."
    )

    @field_validator("at_serving", mode="before")
    @classmethod
    def _is_a_constant(cls, given: object) -> object:
        if isinstance(given, bool) or not isinstance(given, str | int | float | None):
            raise ValueError(f"{given!r} is neither a string nor a number")  # noqa: TRY004 - pydantic's way
        if isinstance(given, float) and not math.isfinite(given):
            raise ValueError(f"{given} is not finite")
        return given

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        if self.type == "categorical":
            if self.vocabulary is None:
                raise ValueError(f"categorical field {self.name!r} needs vocabulary = <name>")
            if {"transform", "default"} & self.model_fields_set:
                raise ValueError(f"field {self.name!r}: transform and default belong to numeric fields")
            if self.at_serving is not None:
                keys.text_of(self.at_serving)  # refuses what is no id
        elif self.vocabulary is not None:
            raise ValueError(f"numeric field {self.name!r} has no vocabulary")
        elif isinstance(self.at_serving, str):
            raise ValueError(f"numeric field {self.name!r}: at_serving must be a number")
        elif abs(self.at_serving or 0) > LARGEST_NUMBER:
            raise ValueError(f"numeric field {self.name!r}: at_serving is too large a number")
        return self


class Split(_Frozen):
    """Where training ends and testing begins, in epoch seconds."""

    validation_from: int = Field(ge=0, le=LAST_SECOND, strict=True)
    test_from: int = Field(ge=0, le=LAST_SECOND, strict=True)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.validation_from >= self.test_from:
            raise ValueError(
                f"validation_from {self.validation_from} is not before test_from {self.test_from}"
            )
        return self


class Schema(_Frozen):
    """The fields of a log in order, their vocabularies, and the actions (code = index + 1)."""

    actions: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = DEFAULT_ACTIONS
    split: Split | None = None
    vocabularies: dict[Name, VocabularySpec] = Field(default_factory=dict)
    behavior: tuple[SchemaField, ...] = Field(min_length=1)
    ad: tuple[SchemaField, ...] = Field(min_length=1)
    user: tuple[SchemaField, ...] = ()
    context: tuple[SchemaField, ...] = ()
    train: dict[str, str | int | float | bool | tuple[int, ...]] = Field(
        default_factory=dict, description="Training settings that this log prefers to a model's defaults."
    )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read `schema.toml`.

        Raises:
            SchemaError: the file is missing, not TOML, or contradicts itself.

        """
        try:
            return cls.from_json(tomllib.loads(path.read_text(encoding="utf-8-sig")), place=str(path))
        except FileNotFoundError as error:
            raise SchemaError(f"{path}: no such file; a log folder needs a schema.toml") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError, RecursionError) as error:
            raise SchemaError(f"{path}: not readable as TOML: {error}") from error

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, place: str = "schema") -> Self:
        """Validate a schema given as plain data (the keys of the TOML).

        Raises:
            SchemaError: it contradicts itself; `place` leads the message.

        """
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise SchemaError(f"{place}: {where + ': ' if where else ''}{message}") from error

    def to_json(self) -> dict[str, Any]:
        """Return plain data with the keys of the TOML; what equals its default is left out."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def fingerprint(self) -> str:
        """Return 64 hex digits over everything that decides the encoding (not `split`, not `train`)."""
        data = self.model_dump(mode="json", exclude={"split", "train"})
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def group(self, group: Group) -> tuple[SchemaField, ...]:
        """Return the fields of one group in order."""
        return self._groups[group]

    def field(self, group: Group, name: str) -> SchemaField:
        """Return one field; KeyError if the group has none of that name."""
        return self._by_name[group][name]

    @cached_property
    def _groups(self) -> dict[Group, tuple[SchemaField, ...]]:
        return {"behavior": self.behavior, "ad": self.ad, "user": self.user, "context": self.context}

    @cached_property
    def _by_name(self) -> dict[Group, dict[str, SchemaField]]:
        return {group: {field.name: field for field in fields} for group, fields in self._groups.items()}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not 1 <= len(self.actions) <= MAX_ACTIONS or len(set(self.actions)) != len(self.actions):
            raise ValueError(f"actions: 1 to {MAX_ACTIONS} different names, got {list(self.actions)}")
        for group in GROUPS:
            self._check_group(group)
        return self

    def _check_group(self, group: Group) -> None:
        seen: set[str] = set()
        matched: set[str] = set()
        for field in self._groups[group]:
            place = f"{group} field {field.name!r}"
            if field.name in seen:
                raise ValueError(f"{place} is declared twice")
            seen.add(field.name)
            if field.name in _RESERVED[group]:
                raise ValueError(f"{place}: the name is reserved")
            if field.vocabulary is not None and field.vocabulary not in self.vocabularies:
                raise ValueError(f"{place}: no [vocabularies.{field.vocabulary}]")
            if field.at_serving is not None and group != "context":
                raise ValueError(f"{place}: at_serving belongs to context fields")
            if field.matches is not None:
                self._check_match(place, group, field)
                if field.matches in matched:
                    raise ValueError(f"{place}: behavior field {field.matches!r} is matched twice")
                matched.add(field.matches)

    def _check_match(self, place: str, group: Group, field: SchemaField) -> None:
        if group != "ad":
            raise ValueError(f"{place}: matches belongs to ad fields")
        other = self._by_name["behavior"].get(str(field.matches))
        if other is None:
            raise ValueError(f"{place}: matches {field.matches!r}, which is no behavior field")
        if (other.type, other.vocabulary) != (field.type, field.vocabulary):
            raise ValueError(
                f"{place}: {field.matches!r} has another type or vocabulary, so they can't be matched"
            )
