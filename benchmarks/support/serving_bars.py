"""The bars of the serving benchmark: one for each line of its table, from whatever parts have been measured.

A line that asks for several things at once has one bar all the same: the least of what was reached over what was
asked for, which has to be at least 1; `parts` says what that came from.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from benchmarks.support.bars import bar
from benchmarks.support.serving_matches import JUDGED
from benchmarks.support.serving_open import DEADLINE_MS

Table = Mapping[str, Any]
MOSEC_LEAST: Final = 1.2
BENTOML_LEAST: Final = 3.0
ROWS_LEAST: Final = 15.0
ONE_PROCESS: Final = 0.33
BEST: Final = 0.42
HEAVY_GRAPHS: Final = 0.85
DIN_MOST: Final = 0.36
SLOWDOWN: Final = 8.0
OVER_IDEAL: Final = 3.0
GOODPUT: Final = 0.9
REFUSAL_MS: Final = 2.0
GROWTH: Final = 0.02
"""Share of the resident memory in 10 minutes that counts as none."""
WORKER_MB: Final = 250.0


def bars_of(tables: Mapping[str, Table]) -> list[dict[str, Any]]:
    """Return one bar per line; a line whose part was not measured has no value."""
    return [_line(name, tables.get(part), compound) for name, part, compound in LINES]


def _line(
    name: str, table: Table | None, measured: Callable[[Table], tuple[dict[str, float | None], str, float]]
) -> dict[str, Any]:
    if table is None or "error" in table:
        return bar(name, None, ">=", 1.0)
    parts, sense, limit = measured(table)
    if len(parts) == 1:
        return bar(name, next(iter(parts.values())), sense, limit)
    values = list(parts.values())
    least = None if None in values else min(value for value in values if value is not None)
    return {**bar(f"{name}; reached over asked for", least, ">=", 1.0), "parts": parts}


def _against_mosec(table: Table) -> tuple[dict[str, float | None], str, float]:
    parts: dict[str, float | None] = {}
    for number in JUDGED:
        seen = table["connections"][str(number)]
        parts[f"requests/s at {number} connections"] = seen.get("rate_ratio", 0.0) / MOSEC_LEAST
        parts[f"p99 at {number} connections"] = 1 / seen.get("p99_ratio", math.inf)
    return parts, ">=", 1.0


def _against_bentoml(table: Table) -> tuple[dict[str, float | None], str, float]:
    return (
        {"ratio": min(table["connections"][str(n)].get("rate_ratio", 0.0) for n in JUDGED)},
        ">=",
        BENTOML_LEAST,
    )


def _against_rows(table: Table) -> tuple[dict[str, float | None], str, float]:
    return {"ratio": max(table["ratios"].values())}, ">=", ROWS_LEAST


def _against_bare(table: Table) -> tuple[dict[str, float | None], str, float]:
    one = [ratio for name, ratio in table["tin"]["ratios"].items() if name.startswith("1 process,")]
    return (
        {
            "TIN, one process": max(one) / ONE_PROCESS,
            "TIN, best": max(table["tin"]["ratios"].values()) / BEST,
            "DIN": max(table["din"]["ratios"].values()) / HEAVY_GRAPHS,
            "DiffuMIN": max(table["diffumin"]["ratios"].values()) / HEAVY_GRAPHS,
        },
        ">=",
        1.0,
    )


def _din(table: Table) -> tuple[dict[str, float | None], str, float]:
    found = [entry["value"] for entry in table["bars"] if entry["limit"] == DIN_MOST]
    return {"ratio": found[0] if found else None}, "<=", DIN_MOST


def _light(table: Table) -> tuple[dict[str, float | None], str, float]:
    def of(seen: Table) -> dict[str, float | None]:
        return {
            "slowdown p99": SLOWDOWN / seen["slowdown_p99"],
            "over the ideal": OVER_IDEAL / seen["over_ideal"],
        }

    return _better([of(setup["median"]["light"]) for setup in table.values()]), ">=", 1.0


def _heavy(table: Table) -> tuple[dict[str, float | None], str, float]:
    def of(seen: Table) -> dict[str, float | None]:
        return {
            "goodput": seen["goodput"] / GOODPUT,
            "accepted p99": _over(DEADLINE_MS, seen["accepted_p99_ms"]),
            "refusal p50": _over(REFUSAL_MS, seen["refusal_p50_ms"]),
        }

    return _better([of(setup["median"]["heavy"]) for setup in table.values()]), ">=", 1.0


def _memory(table: Table) -> tuple[dict[str, float | None], str, float]:
    growth = max(table["growth_share"], GROWTH / 100)
    return {"plateau": GROWTH / growth, "extra worker": WORKER_MB / max(table["uss_mb"])}, ">=", 1.0


def _independence(table: Table) -> tuple[dict[str, float | None], str, float]:
    return {"failed": float(table["failed"]) if table["passed"] else None}, "<=", 0.0


def _over(limit: float, value: float | None) -> float | None:
    return None if value is None else limit / value


def _better(setups: list[dict[str, float | None]]) -> dict[str, float | None]:
    """Return the parts of the set-up whose least part is the greatest."""
    return max(setups, key=lambda parts: min(-math.inf if v is None else v for v in parts.values()))


LINES: Final[tuple[tuple[str, str, Callable[[Table], tuple[dict[str, float | None], str, float]]], ...]] = (
    ("requests/s against mosec, at equal or better p99", "mosec", _against_mosec),
    ("requests/s against BentoML", "bentoml", _against_bentoml),
    ("requests/s against one row per candidate in bare sessions", "rows", _against_rows),
    ("requests/s against bare sessions on two threads", "bare", _against_bare),
    ("DIN's graph against the naive one", "din", _din),
    ("open loop at 60 %: slowdown p99, and against two ideal servers", "open", _light),
    ("open loop at 150 %: goodput, accepted p99, refusals", "open", _heavy),
    ("memory: plateau, extra worker", "soak", _memory),
    ("tests of batch independence that fail", "independence", _independence),
)
"""Name, part, and what of the part's table is held to the limit."""
