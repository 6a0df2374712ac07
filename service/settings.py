"""What an operator can set, in nested groups: every field bounded, described, and refused when misspelt.

Precedence: command line > environment (`LONGSIGHT_GROUP__NAME`) > TOML file (`[group]` tables) > defaults.
`docs/configuration.md` lists every field; a test holds it to this file.
"""

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import SettingsError

ENV_PREFIX: Final = "LONGSIGHT_"
ENV_FILE: Final = "LONGSIGHT_SETTINGS"  # names the TOML file; the one variable that is no setting

FLAGS: Final = {("redis", "url"): "--redis", ("bundle", "path"): "BUNDLE"}
"""What settings are called on the command line, where it is not `--name`."""

Places: TypeAlias = dict[tuple[str, str], str]  # (group, name) -> where its value was given


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ServerSettings(_Group):
    """The HTTP server and its processes."""

    host: str = Field(
        "127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 = every interface."
    )
    port: int = Field(
        8000, ge=0, le=65535, description="Port to listen on; 0 = any free one, which is logged."
    )
    workers: int = Field(
        1, ge=1, le=256, description="Processes that share the port; each holds its own engine."
    )
    max_body_bytes: int = Field(
        8 << 20, ge=1024, le=1 << 30, description="Largest request body; larger ones are 413."
    )
    max_candidates: int = Field(
        5000, ge=1, le=1_000_000, description="Most candidates of one request; more are 422."
    )
    keep_alive_s: int = Field(
        75,
        ge=1,
        le=3600,
        description="An idle connection is closed after so long; longer than the balancer's.",
    )
    drain_delay_s: float = Field(
        1.0,
        ge=0,
        le=300,
        description="After SIGTERM: time not ready but still answering, for balancers to notice.",
    )
    drain_timeout_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="After that: longest wait for running requests before they are dropped.",
    )


class BundleSettings(_Group):
    """What is served."""

    path: Path | None = Field(None, description="Folder of the bundle, as `longsight export` wrote it.")


class RuntimeSettings(_Group):
    """Where the graph runs."""

    device: str = Field(
        "cpu",
        pattern=r"^(cpu|cuda(:\d{1,3})?)$",
        description="cpu, cuda or cuda:<index>; a device that can't be used is an error, never replaced by another.",
    )
    threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="cpu: runs at the same time in one worker; 0 = cores / workers, at least 1.",
    )
    gpu_memory_bytes: int = Field(
        0, ge=0, description="cuda: most memory of onnxruntime's arena; 0 = no limit."
    )


class RedisSettings(_Group):
    """The store of histories, profiles and ads."""

    url: str = Field(
        "redis://127.0.0.1:6379/0",
        pattern=r"^(rediss?|unix)://",
        description="redis://, rediss:// or unix:// URL of Redis >= 7.0 or Valkey.",
    )
    embedded: bool = Field(default=False, description="Start, or join, a Valkey of our own instead of `url`.")
    embedded_dir: Path = Field(
        Path(".longsight/valkey"), description="Folder of the embedded Valkey's data and socket."
    )
    read_timeout_s: float = Field(
        0.05,
        gt=0,
        le=10,
        description="Longest wait for one history; later ones are scored without (`timeout`).",
    )
    connect_timeout_s: float = Field(1.0, gt=0, le=60, description="Longest wait for a connection.")
    wait_s: float = Field(30.0, ge=0, le=3600, description="Longest wait for the store at start.")
    require_store: bool = Field(
        default=False,
        description="Stay not ready until the store has answered once, however long that takes.",
    )


class BatchingSettings(_Group):
    """How waiting requests share runs of the graph, and how many may wait."""

    max_requests: int = Field(
        0, ge=0, le=4096, description="Most requests in one run; 0 = 1 on a CPU (fastest there), 32 on a GPU."
    )
    max_cells: int = Field(
        0,
        ge=0,
        description="Most requests x candidates x history length of one run, padding included, which bounds its "
        "memory; 0 = 500,000 on a CPU, 8,000,000 on a GPU.",
    )
    chunk_candidates: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="A larger request takes turns with others, so many candidates at a time; 0 = 500 on a CPU, "
        "5,000 on a GPU.",
    )
    inline_ms: float = Field(
        1.0,
        ge=0,
        le=100,
        description="cpu: a lone request whose run is this short at most runs on the event loop, which saves two "
        "changes of thread; 0 = never.",
    )
    max_queued_candidates: int = Field(
        20_000, ge=1, description="Candidates in the worker at one time; a request that does not fit is 429."
    )
    deadline_ms: float = Field(
        0.0, ge=0, le=600_000, description="Deadline of requests that bring none (`deadline_ms`); 0 = none."
    )


class LogSettings(_Group):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity written.")


class Settings(_Group):
    """Everything an operator can set."""

    server: ServerSettings = Field(default_factory=ServerSettings)
    bundle: BundleSettings = Field(default_factory=BundleSettings)
    runtime: RuntimeSettings = Field(default_factory=RuntimeSettings)
    redis: RedisSettings = Field(default_factory=RedisSettings)
    batching: BatchingSettings = Field(default_factory=BatchingSettings)
    log: LogSettings = Field(default_factory=LogSettings)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.batching.max_queued_candidates < self.server.max_candidates:
            raise ValueError(
                f"batching.max_queued_candidates ({self.batching.max_queued_candidates}) is less than "
                f"server.max_candidates ({self.server.max_candidates}): the largest request would never be let in"
            )
        return self


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
    return f"{place}: {message}, got {first['input']!r}"


def _unknown_group(group: str) -> str:
    return f"no such group of settings {group!r}; there are {', '.join(Settings.model_fields)}"
