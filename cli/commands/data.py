"""From a log to what the trainer and the service read: `prepare`, `load`."""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Final

import typer

from cli.extras import extras
from cli.output import JsonOption, show
from cli.progress import progress
from cli.values import EmbeddedDirOption, EmbeddedOption, RedisOption, inside, parse_size, parse_time
from contract.errors import InputError

LEAST_MEMORY: Final = 256_000_000  # bytes; with less the pieces become too many
LogArgument = Annotated[Path, typer.Argument(metavar="LOG", help="Folder of the log.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add this theme's commands to the program."""
    app.command(epilog="Example: longsight prepare log dataset --history-lag-s 3600")(prepare)
    app.command(epilog="Example: longsight load log --embedded --until 2017-11-13")(load)


def prepare(
    log: LogArgument,
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="Folder to write.", show_default=False)],
    *,
    validation_from: Annotated[
        int | None,
        typer.Option(
            parser=parse_time, metavar="T", help="Where validation begins.", show_default="the schema's"
        ),
    ] = None,
    test_from: Annotated[
        int | None,
        typer.Option(
            parser=parse_time, metavar="T", help="Where the test begins.", show_default="the schema's"
        ),
    ] = None,
    history_lag_s: Annotated[
        int,
        typer.Option(
            min=0, max=10 * 365 * 86_400, metavar="S", help="A request sees only events older than this."
        ),
    ] = 0,
    memory: Annotated[
        int,
        typer.Option(
            parser=parse_size,
            metavar="SIZE",
            help="What the work may take, beside the program and the ads.",
            show_default="2GB",
        ),
    ] = 2_000_000_000,
    as_json: JsonOption = False,
) -> None:
    """Turn a log into a dataset: packed histories and requests, split by time.

    T is epoch seconds or an ISO date (UTC). Stopped and run again with the same flags, it goes on where it was.
    """
    if memory < LEAST_MEMORY:
        raise InputError(f"--memory {memory:,} bytes is too little; give 256MB or more")
    with extras("train"), progress() as report:
        from training.prepare import prepare as run_prepare

        result = run_prepare(
            log,
            dataset,
            validation_from=validation_from,
            test_from=test_from,
            history_lag_s=history_lag_s,
            memory_bytes=memory,
            progress=report,
        )
    show(result, title=str(dataset), as_json=as_json)


def load(
    log: LogArgument,
    *,
    redis: RedisOption = None,
    embedded: EmbeddedOption = False,
    embedded_dir: EmbeddedDirOption = None,
    until: Annotated[
        int | None,
        typer.Option(
            parser=parse_time, metavar="T", help="Only events before this time.", show_default="all"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fill the store with every user's history and profile, and the catalogue of ads.

    T is epoch seconds or an ISO date (UTC).
    """
    own_store = inside(redis, embedded=embedded, embedded_dir=embedded_dir)
    with extras("train", "serve"), progress() as report:
        import_module("polars")  # reads the log: found missing before the store is touched

        from service.history.load import load as run_load
        from service.settings import load_settings

        settings = load_settings(
            {"redis": {"url": redis, "embedded": own_store, "embedded_dir": embedded_dir}}
        ).redis
        result = run_load(
            log,
            redis_url=None if settings.embedded else settings.url,
            embedded_dir=settings.embedded_dir if settings.embedded else None,
            until=until,
            progress=report,
        )
    show(result, title="loaded", as_json=as_json)
