"""The groups of settings: every field bounded and described; a test holds `docs/configuration.md` to them."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator


def _not_empty(given: object) -> object:
    if given == "":
        raise ValueError("a path can't be empty; leave the setting out for its default")
    return given


Place = Annotated[Path, BeforeValidator(_not_empty)]
"""A path; an empty text would be the current folder, which nobody means by it."""


class SettingsGroup(BaseModel):
    """A group: fixed once made, and it knows its names."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ServerSettings(SettingsGroup):
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


class BundleSettings(SettingsGroup):
    """What is served."""

    path: Place | None = Field(None, description="Folder of the bundle, as `longsight export` wrote it.")


class ModelsSettings(SettingsGroup):
    """Slots: which bundles may be put into them, and where it is kept what was."""

    bundle_root: Place | None = Field(
        None,
        description="Folder whose bundles `POST /models/*` may name; by default the one that holds `BUNDLE`.",
    )
    state_dir: Place = Field(
        Path(".longsight/models"),
        description="Folder of `<port>.json`, which keeps what the slots hold over restarts; with port 0 nothing is.",
    )
    switch_timeout_s: float = Field(
        120.0,
        gt=0,
        le=3600,
        description="Longest time in which all workers verify, warm and switch; after it everything is as before.",
    )
    shadow_load: float = Field(
        0.02,
        gt=0,
        le=1,
        description="Largest share of a worker's time for its shadow; what does not fit is not scored by it.",
    )


class AuthSettings(SettingsGroup):
    """Who may do what."""

    admin_token: Annotated[str, StringConstraints(strip_whitespace=True)] = Field(
        "",
        repr=False,
        description="What `POST /models/*` asks for as `Authorization: Bearer`; none = always 401.",
    )


class RuntimeSettings(SettingsGroup):
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
    nice: int = Field(
        5,
        ge=0,
        le=19,
        description="cpu: by how many steps of niceness the threads that run the graph give way to "
        "the one that receives and answers (Linux); 0 = equal.",
    )
    gpu_memory_bytes: int = Field(
        0, ge=0, description="cuda: most memory of onnxruntime's arena; 0 = no limit."
    )


class RedisSettings(SettingsGroup):
    """The store of histories, profiles and ads."""

    url: str = Field(
        "redis://127.0.0.1:6379/0",
        pattern=r"^(rediss?|unix)://",
        description="redis://, rediss:// or unix:// URL of Redis >= 7.0 or Valkey.",
    )
    embedded: bool = Field(default=False, description="Start, or join, a Valkey of our own instead of `url`.")
    embedded_dir: Place = Field(
        Path(".longsight/valkey"), description="Folder of the embedded Valkey's data and socket."
    )
    read_timeout_s: float = Field(
        0.05,
        gt=0,
        le=10,
        description="Longest wait for one history; later ones are scored without (`timeout`).",
    )
    connect_timeout_s: float = Field(1.0, gt=0, le=60, description="Longest wait for a connection.")
    cache_bytes: int = Field(
        96 << 20,
        ge=0,
        description="Most memory of encoded histories that a worker keeps for each bundle; "
        "of users among them only what was added is read. 0 = none.",
    )
    tracking: bool = Field(
        default=True,
        description="Have the store tell which users' keys change (CLIENT TRACKING): whose history is kept and has not "
        "changed is not read again. A store that can't tell is asked for every request.",
    )
    confirm: bool = Field(
        default=True,
        description="With tracking, ask before each answer whether that was all, so that a request sees what was "
        "written before it; false = a change may go unseen for about a millisecond, and no read is waited for.",
    )
    wait_s: float = Field(30.0, ge=0, le=3600, description="Longest wait for the store at start.")
    require_store: bool = Field(
        default=False,
        description="Stay not ready until the store has answered once, however long that takes.",
    )


class BatchingSettings(SettingsGroup):
    """How waiting requests share runs of the graph, and how many may wait."""

    max_requests: int = Field(
        0,
        ge=0,
        le=4096,
        description="Most requests in one run; 0 = 4 on a CPU (and only runs of up to 3 ms), 32 on a GPU.",
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
    turn_ms: float = Field(
        5.0,
        ge=0,
        le=100,
        description="cpu, a worker per core: longest time for which the event loop runs what came together by itself, "
        "while nothing longer is inside; 0 = never.",
    )
    max_queued_candidates: int = Field(
        20_000, ge=1, description="Candidates in the worker at one time; a request that does not fit is 429."
    )
    deadline_ms: float = Field(
        0.0, ge=0, le=600_000, description="Deadline of requests that bring none (`deadline_ms`); 0 = none."
    )


class CaptureSettings(SettingsGroup):
    """Which scored requests are kept in a file, for `longsight replay-capture`."""

    path: Place | None = Field(
        None,
        description="File of kept requests, of the first worker; others add -2, -3, ... None = none are kept.",
    )
    sample: float = Field(0.01, ge=0, le=1, description="Share of the requests that is kept; 0 = no sample.")
    slow_ms: float = Field(
        0.0,
        ge=0,
        le=600_000,
        description="Requests that took longer are kept in any case; 0 = none is slow.",
    )
    per_second: int = Field(
        100,
        ge=0,
        description="Most requests that one worker keeps in one second, slow ones included; 0 = no limit.",
    )
    max_bytes: int = Field(
        64 << 20, ge=1 << 16, description="A file is closed, and the next begun, before it is larger."
    )
    files: int = Field(
        4, ge=2, le=1000, description="Files that one worker keeps, the live one included; the oldest goes."
    )


class LogSettings(SettingsGroup):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity written.")


class Settings(SettingsGroup):
    """Everything an operator can set."""

    server: ServerSettings = Field(default_factory=ServerSettings)
    bundle: BundleSettings = Field(default_factory=BundleSettings)
    models: ModelsSettings = Field(default_factory=ModelsSettings)
    auth: AuthSettings = Field(default_factory=AuthSettings)
    runtime: RuntimeSettings = Field(default_factory=RuntimeSettings)
    redis: RedisSettings = Field(default_factory=RedisSettings)
    batching: BatchingSettings = Field(default_factory=BatchingSettings)
    capture: CaptureSettings = Field(default_factory=CaptureSettings)
    log: LogSettings = Field(default_factory=LogSettings)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.batching.max_queued_candidates < self.server.max_candidates:
            raise ValueError(
                f"batching.max_queued_candidates ({self.batching.max_queued_candidates}) is less than "
                f"server.max_candidates ({self.server.max_candidates}): the largest request would never be let in"
            )
        if self.capture.path is not None and not (self.capture.sample or self.capture.slow_ms):
            raise ValueError(
                f"capture.path ({self.capture.path}) is given, but capture.sample and capture.slow_ms are 0: "
                "no request would ever be kept"
            )
        return self
