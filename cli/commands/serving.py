"""From a bundle to scores, and the proof that they are what they should be: `serve`, `replay`, `replay-capture`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.extras import extras
from cli.output import JsonOption, show
from cli.progress import progress
from cli.values import EmbeddedDirOption, EmbeddedOption, RedisOption, inside
from contract.errors import LongsightError


class SkewError(LongsightError):
    """Log-odds differ from what they should be, or nothing could be compared."""


def register(app: typer.Typer) -> None:
    """Add this theme's commands to the program."""
    app.command(epilog="Example: longsight serve bundles/tin --embedded --port 8000")(serve)
    app.command(
        epilog="Example: longsight replay log --url http://127.0.0.1:8000 --predictions test.parquet --limit 1000"
    )(replay)
    app.command(epilog="Example: longsight replay-capture captured --url http://127.0.0.1:8000")(
        replay_capture
    )


def serve(
    bundle: Annotated[
        Path | None,
        typer.Argument(metavar="BUNDLE", help="Folder made by `export`.", show_default="bundle.path"),
    ] = None,
    *,
    redis: RedisOption = None,
    embedded: EmbeddedOption = False,
    embedded_dir: EmbeddedDirOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 = any.", show_default="8000")] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Processes.", show_default="1")] = None,
    device: Annotated[
        str | None, typer.Option(metavar="cpu|cuda[:i]", help="Where the graph runs.", show_default="cpu")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="f.toml", help="Settings; flags and environment win.", show_default=False),
    ] = None,
) -> None:
    """Answer `POST /score` until SIGTERM or Ctrl-C.

    Settings: flags > environment (`LONGSIGHT_GROUP__NAME`) > --config > defaults; see docs/configuration.md.
    """
    own_store = inside(redis, embedded=embedded, embedded_dir=embedded_dir)
    with extras("serve"):
        from service.settings import load_settings
        from service.wiring import serve as run_service

        settings = load_settings(
            {
                "bundle": {"path": bundle},
                "redis": {"url": redis, "embedded": own_store, "embedded_dir": embedded_dir},
                "server": {"host": host, "port": port, "workers": workers},
                "runtime": {"device": device},
            },
            file=config,
        )
        run_service(settings)


def replay(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="Folder of the log.", show_default=False)],
    *,
    url: Annotated[str, typer.Option(metavar="URL", help="Of the running service.", show_default=False)],
    predictions: Annotated[
        Path, typer.Option(metavar="P", help="What `evaluate --predictions` wrote.", show_default=False)
    ],
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only n requests, evenly spread.", show_default="all")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Send logged requests through a running service; compare its log-odds with the offline ones.

    Exit 1 if any differs by more than 1e-4; of a model that picks by argmax, such as diffumin, 1 % of the scores
    may differ by up to 0.05, and of a bundle of reduced precision as far as its export found. The service must hold
    this log's histories (`longsight load`).
    """
    with extras("train"), progress() as report:
        from cli.differences import words
        from cli.replay import replay as run_replay

        result = run_replay(log, url=url, predictions=predictions, limit=limit, progress=report)
    show(result, title=f"{log} at {url}", as_json=as_json)
    if not result["compared"]:
        raise SkewError(f"none of {result['impressions']} impressions could be compared: {result['history']}")
    if not result["ok"]:
        raise SkewError(words(result))


def replay_capture(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            help="What `serve` wrote with capture.path: files, or the folder that holds them.",
            show_default=False,
        ),
    ],
    *,
    url: Annotated[str, typer.Option(metavar="URL", help="Of the running service.", show_default=False)],
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only n requests, evenly spread.", show_default="all")
    ] = None,
    any_version: Annotated[
        bool,
        typer.Option("--any-version", help="Compare answers by other versions than the captured ones too."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Send captured requests again; compare their latency by stage and their log-odds with the captured ones.

    Exit 1 if log-odds differ by more than `replay` allows, a request was refused, or nothing could be compared.
    Answers by another version, without the history or with another one are counted, not compared.
    """
    with extras("serve"), progress() as report:
        from cli.capture_replay import replay_capture as run_replay
        from cli.differences import words

        result = run_replay(files, url=url, limit=limit, any_version=any_version, progress=report)
    for path in result["cut"]:
        sys.stderr.write(f"{path}: the last line is cut off and left out\n")
    show(result, title=f"{', '.join(map(str, files))} at {url}", as_json=as_json)
    if result["refused"]:
        raise SkewError(f"requests were refused: {result['refused']}; the first: {result['first_refusal']}")
    if not result["compared"]:
        raise SkewError(f"none of {result['requests']} requests could be compared: {result['not_compared']}")
    if not result["ok"]:
        raise SkewError(words(result))
