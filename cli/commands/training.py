"""From a dataset to a trained model: `train`."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cli.extras import extras
from cli.output import JsonOption, show
from cli.progress import progress
from cli.values import parse_settings
from contract.errors import LongsightError

SUMMARY = ("model", "settings", "calibration", "best_epoch", "stopped", "seconds", "metrics")


DatasetArgument = Annotated[
    Path, typer.Argument(metavar="DATASET", help="Folder made by `prepare`.", show_default=False)
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder to write.", show_default=False)]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model", metavar="M", help="din, tin, diffumin, mean_pool or popularity.", show_default=False
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(metavar="f.toml", help="Settings of the model and of training.", show_default=False),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="key=value",
        help="One setting; again for more. Wins over --config.",
        show_default=False,
    ),
]
SeedOption = Annotated[
    int, typer.Option(min=0, max=2**63 - 1, help="Seed of initial weights and batch order.")
]
DeviceOption = Annotated[str, typer.Option(metavar="cpu|cuda", help="Where to train.")]
InitOption = Annotated[
    Path | None,
    typer.Option(
        "--init-from", metavar="RUN", help="Start with the weights of this run.", show_default=False
    ),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with an unfinished training of RUN, to the exact step.")
]
SaveOption = Annotated[
    float,
    typer.Option("--save-every", metavar="S", min=0, help="Seconds between positions kept for --resume."),
]


ReportOption = Annotated[
    bool, typer.Option("--report/--no-report", help="Also write RUN/report.html; it scores the test split.")
]


def register(app: typer.Typer) -> None:
    """Add this theme's commands to the program."""
    app.command(epilog="Example: longsight train dataset runs/tin --model tin --set history_length=500")(
        train
    )


def train(
    dataset: DatasetArgument,
    run: RunArgument,
    *,
    model: ModelOption,
    config: ConfigOption = None,
    settings: SetOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    init_from: InitOption = None,
    resume: ResumeOption = False,
    save_every: SaveOption = 300.0,
    report: ReportOption = True,
    as_json: JsonOption = False,
) -> None:
    """Train a model, keep its best weights by validation GAUC, calibrate it, and report on it."""
    chosen = parse_settings(settings or [])
    with extras("train"), _saying_how_it_stopped(), progress() as shown:
        from training.report import write_report
        from training.train import train as run_train

        result = run_train(
            dataset,
            run,
            model=model,
            config_path=config,
            settings=dict(chosen),
            seed=seed,
            device=device,
            init_from=init_from,
            resume=resume,
            save_every_s=save_every,
            progress=shown,
            say=_say,
        )
        if result and report:
            try:
                write_report(run, seed=seed, progress=shown)
            except (LongsightError, OSError) as error:  # the run is whole, and that is what was asked for
                _say(f"{run} is trained, but has no report: {error}")
    if not result:  # one of several processes, and not the one that writes
        return
    if not as_json:  # the rest is for programs, and stays in RUN/run.json
        result = {name: result[name] for name in SUMMARY if name in result}
    show(result, title=str(run), as_json=as_json)


def _say(line: str) -> None:
    typer.echo(line, err=True)


@contextmanager
def _saying_how_it_stopped() -> Iterator[None]:
    """Print what a stopped training says; SIGTERM ends with 143 as in a shell, Ctrl-C as everywhere."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        if str(stopped):
            _say(str(stopped))
        if getattr(stopped, "number", None) == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM) from stopped
        raise
