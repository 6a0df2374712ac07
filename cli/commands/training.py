"""From a dataset to a trained and judged model: `train`, `evaluate`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.extras import extras
from cli.output import JsonOption, show
from cli.progress import progress
from cli.values import parse_settings

SUMMARY = ("model", "settings", "calibration", "best_epoch", "stopped", "seconds", "metrics")


class Split(StrEnum):
    """Which part of the log is judged."""

    validation = "validation"
    test = "test"


def register(app: typer.Typer) -> None:
    """Add this theme's commands to the program."""
    app.command(epilog="Example: longsight train dataset runs/tin --model tin --set history_length=500")(
        train
    )
    app.command(epilog="Example: longsight evaluate runs/tin --split test --predictions test.parquet")(
        evaluate
    )


def train(
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET", help="Folder made by `prepare`.", show_default=False)
    ],
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder to write.", show_default=False)],
    *,
    model: Annotated[
        str,
        typer.Option("--model", metavar="M", help="din, tin, mean_pool or popularity.", show_default=False),
    ],
    config: Annotated[
        Path | None,
        typer.Option(metavar="f.toml", help="Settings of the model and of training.", show_default=False),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="key=value",
            help="One setting; again for more. Wins over --config.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Seed of initial weights and batch order.")
    ] = 0,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Where to train.")] = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Train a model, keep its best weights by validation GAUC, calibrate it."""
    chosen = parse_settings(settings or [])
    with extras("train"), progress() as report:
        from training.train import train as run_train

        result = run_train(
            dataset,
            run,
            model=model,
            config_path=config,
            settings=dict(chosen),
            seed=seed,
            device=device,
            progress=report,
        )
    if not as_json:  # the rest is for programs, and stays in RUN/run.json
        result = {name: result[name] for name in SUMMARY if name in result}
    show(result, title=str(run), as_json=as_json)


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
