"""How good a run is, and whether it is better than another: `evaluate`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.extras import extras
from cli.output import JsonOption, show
from cli.progress import progress


class Split(StrEnum):
    """Which part of the log is judged."""

    validation = "validation"
    test = "test"


def register(app: typer.Typer) -> None:
    """Add this theme's commands to the program."""
    app.command(epilog="Example: longsight evaluate runs/tin --split test --predictions test.parquet")(
        evaluate
    )


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder made by `train`.", show_default=False)],
    *,
    split: Annotated[Split, typer.Option(help="Which part of the log.")] = Split.test,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="out.parquet", help="Also write one row per impression.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Judge a run: AUC, GAUC, log loss, normalised entropy, calibration, by history length."""
    with extras("train"), progress() as report:
        from training.evaluate import evaluate as run_evaluate

        result = run_evaluate(run, split=split.value, predictions=predictions, progress=report)
    show(result, title=f"{run}, {split.value}", as_json=as_json)
