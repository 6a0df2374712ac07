"""What a command answers: a table for people, or one JSON object as the last line of stdout."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

JsonOption = Annotated[bool, typer.Option("--json", help="End stdout with one JSON object.")]

MAX_LIST = 12  # longer lists are counted rather than printed


def show(result: Mapping[str, Any], *, title: str, as_json: bool) -> None:
    """Print a command's result; not-a-number becomes null in JSON."""
    if as_json:
        # Plain print: rich would wrap the line at the width of the terminal.
        print(json.dumps(plain(result), allow_nan=False))  # noqa: T201
        return
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in result.items():
        table.add_row(name, _text(value))
    Console().print(table)


def plain(value: object) -> Any:  # noqa: ANN401 - JSON is what it is
    """Return `value` as JSON allows it: numpy scalars and arrays, paths and not-a-number included."""
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Sequence):
        return [plain(inner) for inner in value]
    return str(value)


def _text(value: object) -> str:
    """One cell: nested mappings on lines of their own, figures readable."""
    value = plain(value)
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_flat(inner)}" for name, inner in value.items())
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "\n".join(_flat(inner) for inner in value[:MAX_LIST])
    return _flat(value)


def _flat(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_flat(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        inner = ", ".join(_flat(each) for each in value[:MAX_LIST])
        return inner if len(value) <= MAX_LIST else f"{inner}, ... ({len(value):,} in all)"
    return str(value)
