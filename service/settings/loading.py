"""Where values of settings come from, which of them wins, and what is said about one that is wrong."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from pydantic import BaseModel, ValidationError

from service.errors import SettingsError
from service.settings.groups import Settings

ENV_PREFIX: Final = "LONGSIGHT_"
ENV_FILE: Final = "LONGSIGHT_SETTINGS"  # names the TOML file; the one variable that is no setting

FLAGS: Final = {("redis", "url"): "--redis", ("bundle", "path"): "BUNDLE"}
"""What settings are called on the command line, where it is not `--name`."""

Places: TypeAlias = dict[tuple[str, str], str]  # (group, name) -> where its value was given


def load_settings(
    overrides: Mapping[str, Mapping[str, object]] | None = None,
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Merge the command line, the environment, a TOML file and the defaults.

    Args:
        overrides: from the command line, `{group: {name: value}}`; None means "not given".
        file: a TOML file of `[group]` tables; by default the one named by `LONGSIGHT_SETTINGS`, if any.
        environ: the environment; by default the process's.

    Raises:
        SettingsError: a name is unknown, or a value mistyped or out of bounds; says where it was given.

    """
    environ = os.environ if environ is None else environ
    if file is None and environ.get(ENV_FILE):
        file = Path(environ[ENV_FILE])
    values: dict[str, dict[str, object]] = {}
    places: Places = {}
    layers = [_from_file(file)] if file else []
    for layer in [*layers, _from_environment(environ), _from_flags(overrides or {})]:
        for group, name, value, place in layer:
            values.setdefault(group, {})[name] = value
            places[group, name] = place
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_first_complaint(error, places)) from error


def _from_file(path: Path) -> Iterator[tuple[str, str, object, str]]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError(f"{path}: not readable as TOML: {error}") from error
    for group, table in data.items():
        if not isinstance(table, dict):
            raise SettingsError(f"{path}: {group}: settings stand in tables, such as [server]")
        if not table and group not in Settings.model_fields:
            raise SettingsError(f"{path}: [{group}]: {_unknown_group(group)}")
        for name, value in table.items():
            yield group, name, value, f"{path}: {group}.{name}"


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str, object, str]]:
    for variable, value in environ.items():
        if not variable.startswith(ENV_PREFIX) or variable == ENV_FILE:
            continue
        group, separator, name = variable.removeprefix(ENV_PREFIX).lower().partition("__")
        if not separator or not name:
            raise SettingsError(f"{variable}: no such setting; variables are named {ENV_PREFIX}GROUP__NAME")
        yield group, name, value, variable


def _from_flags(overrides: Mapping[str, Mapping[str, object]]) -> Iterator[tuple[str, str, object, str]]:
    for group, table in overrides.items():
        for name, value in table.items():
            if value is not None:
                flag = FLAGS.get((group, name), f"--{name.replace('_', '-')}")
                yield group, name, value, flag


def _first_complaint(error: ValidationError, places: Places) -> str:
    first: Any = error.errors()[0]
    group, name = (*[str(part) for part in first["loc"]], "", "")[:2]
    message = first["msg"].removeprefix("Value error, ")
    if not group:
        return str(message)
    if group not in Settings.model_fields:
        place = next((place for key, place in places.items() if key[0] == group), group)
        return f"{place}: {_unknown_group(group)}"
    place = places.get((group, name), f"{group}.{name}")
    if first["type"] == "extra_forbidden":
        known = Settings.model_fields[group].annotation
        names = (
            ", ".join(known.model_fields) if isinstance(known, type) and issubclass(known, BaseModel) else ""
        )
        return f"{place}: no such setting in group {group!r}; it has {names}"
    if group == "auth":  # what is wrong with a secret may be told, the secret not
        return f"{place}: {message}"
    return f"{place}: {message}, got {first['input']!r}"


def _unknown_group(group: str) -> str:
    return f"no such group of settings {group!r}; there are {', '.join(Settings.model_fields)}"
