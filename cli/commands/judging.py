"""How good a run is, and whether it is better than another: `evaluate`, `compare`, `report`."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.commands.bundle import Diffusion
from cli.extras import extras
from cli.output import JsonOption, show
from cli.progress import progress

RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder made by `train`.", show_default=False)
]
ReplicatesOption = Annotated[
    int, typer.Option(min=100, max=100_000, help="How often users are drawn for an interval.")
]
SeedOption = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the draws.")]


class Split(StrEnum):
    """Which part of the log is judged."""

    validation = "validation"
    test = "test"


SplitOption = Annotated[Split, typer.Option(help="Which part of the log.")]


def register(app: typer.Typer) -> None:
    """Add this theme's commands to the program."""
    app.command(epilog="Example: longsight evaluate runs/tin --split test --predictions test.parquet")(
        evaluate
    )
    app.command(epilog="Example: longsight compare runs/tin runs/din")(compare)
    app.command(epilog="Example: longsight report runs/tin --baseline runs/din")(report)


def evaluate(
    run: RunArgument,
    *,
    split: SplitOption = Split.test,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="out.parquet", help="Also write one row per impression.", show_default=False),
    ] = None,
    intervals: Annotated[bool, typer.Option("--intervals", help="Add 95 % intervals.")] = False,
    diffusion: Annotated[
        Diffusion,
        typer.Option(help="distilled: of the student that `export --diffusion distilled` kept in RUN."),
    ] = Diffusion.unrolled,
    as_json: JsonOption = False,
) -> None:
    """Judge a run: AUC, GAUC, log loss, normalised entropy, calibration, by history length."""
    with extras("train"), progress() as shown:
        from training.evaluate import evaluate as run_evaluate

        result = run_evaluate(
            run,
            split=split.value,
            predictions=predictions,
            intervals=intervals,
            student=diffusion is Diffusion.distilled,
            progress=shown,
        )
    show(result, title=f"{run}, {split.value}", as_json=as_json)


def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="A run.", show_default=False)],
    run_b: Annotated[
        Path, typer.Argument(metavar="RUN_B", help="Another on the same dataset.", show_default=False)
    ],
    *,
    split: SplitOption = Split.test,
    replicates: ReplicatesOption = 1000,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Tell whether one run is better than another: paired differences, users drawn with replacement."""
    with extras("train"), progress() as shown:
        from training.compare import compare as run_compare

        result = run_compare(
            run_a, run_b, split=split.value, replicates=replicates, seed=seed, progress=shown
        )
    if as_json:
        show(result, title="", as_json=True)
    else:
        _show_comparison(result)


def report(
    run: RunArgument,
    *,
    baseline: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN",
            help="Compare with this run; again for more.",
            show_default="runs beside RUN on the same dataset",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write.", show_default="RUN/report.html")
    ] = None,
    category: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD", help="Ad field of the correlation maps.", show_default="chosen by its values"
        ),
    ] = None,
    replicates: ReplicatesOption = 1000,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Write the report of a run: one HTML page that needs nothing else."""
    with extras("train"), progress() as shown:
        from training.report import write_report

        written = write_report(
            run,
            baselines=tuple(baseline or ()),
            output=output,
            category=category,
            replicates=replicates,
            seed=seed,
            progress=shown,
        )
    show({"report": written, "bytes": written.stat().st_size}, title=str(run), as_json=as_json)


def _show_comparison(result: Mapping[str, Any]) -> None:
    """Print the differences of all rows, of GAUC by length, and what they say."""
    names = result["a"]["name"], result["b"]["name"]
    table = Table(title=f"{result['split']}: {result['rows']:,} rows, {result['users']:,} users")
    for column in ("", *names, "difference", "95 % interval"):
        table.add_column(column, justify="left" if not column else "right")
    for name, entry in result["metrics"].items():
        table.add_row(name, *_cells(entry))
    table.add_section()
    for length, part in result["by_length"].items():
        table.add_row(f"gauc, {length} events before", *_cells(part["metrics"]["gauc"]))
    console = Console()
    console.print(table)
    for sentence in result["verdict"]:
        console.print(f"- {sentence}", highlight=False, markup=False)
    for length, part in result["by_length"].items():
        console.print(
            f"- {length} events before: {part['metrics']['gauc']['verdict']}", highlight=False, markup=False
        )


def _cells(entry: Mapping[str, Any]) -> list[str]:
    a, b, difference, low, high = (
        "-" if entry[name] is None else f"{entry[name]:{form}}"
        for name, form in (
            ("a", ".4f"),
            ("b", ".4f"),
            ("difference", "+.4f"),
            ("low", "+.4f"),
            ("high", "+.4f"),
        )
    )
    return [a, b, difference, f"[{low}, {high}]" if low != "-" else "-"]
