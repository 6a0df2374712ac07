"""Everything at once: `demo`."""

from pathlib import Path
from typing import Annotated, Final

import typer

from cli.extras import extras

FOLDER: Final = Path(".longsight/demo")


def register(app: typer.Typer) -> None:
    """Add this theme's command to the program."""
    app.command(epilog="Example: longsight demo --model tin --once")(demo)


def demo(
    *,
    model: Annotated[
        str, typer.Option("--model", metavar="M", help="din, tin, diffumin, mean_pool or popularity.")
    ] = "tin",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to serve on.")] = 8000,
    once: Annotated[bool, typer.Option("--once", help="Score one trip and exit.")] = False,
) -> None:
    """Real data to a served probability: import, prepare, train, export, load, serve, score.

    Works in .longsight/demo below this folder; what a finished step left there is used again.
    """
    with extras("train", "serve", "demo"):
        from rich.console import Console

        from cli.demo import run_demo

        run_demo(model=model, port=port, once=once, folder=FOLDER, console=Console())
