"""Bars: what was measured, the limit it is held to, and the one JSON object a benchmark ends with."""

import json
import operator
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any, Final

_COMPARE: Final = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


def bar(name: str, value: float | None, sense: str, limit: float) -> dict[str, Any]:
    """Return one entry of `bars`; a value that could not be measured is None and not ok."""
    return {
        "name": name,
        "value": value,
        "limit": limit,
        "ok": value is not None and bool(_COMPARE[sense](value, limit)),
    }


def finish(tables: Mapping[str, Any], bars: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print the bars, and with `as_json` one JSON object as the last line of stdout."""
    for entry in bars:
        value = "-" if entry["value"] is None else f"{entry['value']:.4g}"
        print(f"{'ok  ' if entry['ok'] else 'MISS'} {entry['name']}: {value} (limit {entry['limit']:g})")
    if as_json:
        print(json.dumps({"machine": machine(), **tables, "bars": list(bars)}))


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
