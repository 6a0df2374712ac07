"""A log with planted truth: `synthesize`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.extras import extras
from cli.output import JsonOption, show
from cli.progress import progress


def register(app: typer.Typer) -> None:
    """Add this theme's commands to the program."""
    app.command(
        epilog="Example: longsight synthesize log --users 100000 --ads 5000 --events-per-user 300 --seed 1"
    )(synthesize)


def synthesize(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="Log folder to write.", show_default=False)],
    *,
    users: Annotated[int, typer.Option(help="Users, up to a billion, in constant memory.")] = 8_000,
    ads: Annotated[
        int, typer.Option(help="Ads; at least one of each of the 48 categories, at most 10 million.")
    ] = 2_000,
    events_per_user: Annotated[
        int, typer.Option(help="Mean number of behaviours of a user, at most 100,000.")
    ] = 300,
    seed: Annotated[int, typer.Option(help="Seed of every draw; same seed, same bytes.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Write a log whose every click probability is known: long histories, drifting interests, planted truth."""
    with extras("train"), progress() as report:
        from training.synthesize.log import synthesize as write_log

        result = write_log(
            log, users=users, ads=ads, events_per_user=events_per_user, seed=seed, progress=report
        )
    show(result, title=str(log), as_json=as_json)
