"""Reads the values of flags: times, sizes, `key=value` settings, which store."""

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final

import typer

from contract.errors import InputError

LATEST_SECOND: Final = 2**32 - 1  # a record keeps its time in 32 bits
LATEST_MILLISECOND: Final = LATEST_SECOND * 1000
SIZE: Final = re.compile(r"(\d{1,18}(?:\.\d{1,9})?) ?([kmgt]?)(i?)b?", re.ASCII | re.IGNORECASE)
LARGEST_SIZE: Final = 10**18

RedisOption = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Redis or Valkey.", show_default="redis://127.0.0.1:6379/0"),
]
EmbeddedOption = Annotated[bool, typer.Option("--embedded", help="Start, or join, a Valkey of our own.")]
EmbeddedDirOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Its data and socket.", show_default=".longsight/valkey"),
]

SettingValue = bool | int | float | str | list[int]


def parse_time(text: str | int) -> int:
    """Return epoch seconds for `1507520000`, `2017-10-09` or `2017-10-09T03:33:20+02:00` (no zone = UTC)."""
    text = str(text)
    seconds = int(text) if text.isdecimal() else _from_iso(text)
    if LATEST_SECOND < seconds <= LATEST_MILLISECOND:
        raise typer.BadParameter(f"{text} looks like milliseconds; give seconds since 1970 UTC")
    if not 0 <= seconds <= LATEST_SECOND:
        raise typer.BadParameter(f"{text} lies outside 1970-01-01 .. 2106-02-07")
    return seconds


def parse_size(text: str | int) -> int:
    """Return the bytes of `4GB`, `1.5 GB`, `512M`, `4GiB` or `4000000000`: GB = 1000^3 bytes, GiB = 1024^3."""
    found = SIZE.fullmatch(str(text).strip())
    if found is None or (found[3] and not found[2]):
        raise typer.BadParameter(f"{text!r} is no size; give bytes or a unit, such as 4GB or 512MiB")
    step = 1024 if found[3] else 1000
    size = int(Decimal(found[1]) * step ** " kmgt".index(found[2].lower() or " "))
    if not 0 < size <= LARGEST_SIZE:
        raise typer.BadParameter(f"{text} lies outside 1 byte .. 1,000,000 TB")
    return size


def parse_settings(pairs: Iterable[str]) -> dict[str, SettingValue]:
    """Return the `--set key=value` flags; a later one for the same key wins."""
    settings: dict[str, SettingValue] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise InputError(f"--set {pair!r} is not key=value, such as epochs=2")
        settings[name.strip()] = parse_value(value.strip())
    return settings


def parse_value(text: str) -> SettingValue:
    """Return an int, a float, a bool or a list of ints where `text` reads as one, else the text itself."""
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return _list_of_ints(text) or text


def _list_of_ints(text: str) -> list[int]:
    """Return what `[80, 40]` lists, nothing if `text` is no such list."""
    try:
        values = json.loads(text)
    except ValueError:
        return []
    return values if isinstance(values, list) and all(type(value) is int for value in values) else []


def inside(redis: str | None, *, embedded: bool, embedded_dir: Path | None) -> bool | None:
    """Return whether the flags ask for a store of our own (True), a URL (False), or say nothing (None).

    Raises:
        InputError: they ask for both.

    """
    if redis is None:
        return True if embedded or embedded_dir is not None else None
    if embedded or embedded_dir is not None:
        raise InputError("--redis and --embedded exclude each other; give one of them")
    return False


def _from_iso(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither epoch seconds nor an ISO date such as 2017-10-09"
        ) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
