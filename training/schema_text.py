"""Writes the text of a `schema.toml`: every log that is made here spells its schema the same way."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Exact:
    """A vocabulary of known ids."""

    min_count: int
    oov_buckets: int


@dataclass(frozen=True)
class Field:
    """One field; without a vocabulary it is a number, taken as log(1 + x)."""

    group: Literal["behavior", "ad", "user", "context"]
    name: str
    vocabulary: str | None = None
    matches: str | None = None
    optional: bool = False


@dataclass(frozen=True)
class Axis:
    """Where validation and test begin, in epoch seconds; a comment (one line) may say what that means."""

    validation_from: int
    test_from: int
    meaning: str = ""


def schema_text(
    title: Iterable[str],
    axis: Axis,
    *,
    actions: Iterable[str],
    vocabularies: Mapping[str, Exact | None],
    fields: Iterable[Field],
) -> str:
    """Return the file's text; `title` are its leading comments, a line each.

    A vocabulary that is None has the counts of the contract.
    """
    lines = [f"# {line}" for line in title]
    quoted = ", ".join(f'"{action}"' for action in actions)
    lines += [f"actions = [{quoted}]", ""]
    lines += ["[split]  # epoch seconds" + (f": {axis.meaning}" if axis.meaning else "")]
    lines += [f"validation_from = {axis.validation_from}", f"test_from = {axis.test_from}"]
    for name, exact in vocabularies.items():
        lines += ["", f"[vocabularies.{name}]", 'kind = "exact"']
        if exact is not None:
            lines += [f"min_count = {exact.min_count}", f"oov_buckets = {exact.oov_buckets}"]
    for field in fields:
        lines += ["", *_field(field)]
    return "\n".join(lines) + "\n"


def _field(field: Field) -> list[str]:
    lines = [f"[[{field.group}]]", f'name = "{field.name}"']
    if field.vocabulary is None:
        lines += ['type = "numeric"', 'transform = "log1p"']
    else:
        lines += ['type = "categorical"', f'vocabulary = "{field.vocabulary}"']
    lines += [f'matches = "{field.matches}"'] if field.matches is not None else []
    return [*lines, "optional = true"] if field.optional else lines
