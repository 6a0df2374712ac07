"""From a run to what the service opens, and a look inside: `export`, `bundle show`, `bundle verify`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.extras import extras
from cli.output import JsonOption, show
from cli.progress import progress


class Precision(StrEnum):
    """What a graph keeps its tables in."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


class Diffusion(StrEnum):
    """What generates the interests of DiffuMIN in a graph."""

    unrolled = "unrolled"
    distilled = "distilled"


BundleArgument = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="Folder made by `export`.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add this theme's commands to the program."""
    app.command(epilog="Example: longsight export runs/tin bundles/tin")(export)
    bundles = typer.Typer(help="Look into a bundle, or prove it whole.")
    bundles.command("show", epilog="Example: longsight bundle show bundles/tin")(show_bundle)
    bundles.command("verify", epilog="Example: longsight bundle verify bundles/tin")(verify_bundle)
    app.add_typer(bundles, name="bundle")


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder made by `train`.", show_default=False)],
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder to write.", show_default=False)],
    *,
    precision: Annotated[
        Precision,
        typer.Option(
            help="Of embeddings and ad biases; all else stays fp32. Refused where it costs quality on the test split: "
            "GAUC may be lower by more than .002, or PCOC moves by more than .01."
        ),
    ] = Precision.fp32,
    diffusion: Annotated[
        Diffusion,
        typer.Option(
            help="How a graph of diffumin generates interests: by its sampler's steps, or by the one step of a "
            "student, which is distilled now unless RUN keeps one."
        ),
    ] = Diffusion.unrolled,
    as_json: JsonOption = False,
) -> None:
    """Export a run to a bundle; nothing is left behind when the graph disagrees with the model, or is refused."""
    with extras("train"), progress() as report:
        from export.exporter import export as run_export

        result = run_export(
            run, bundle, precision=precision.value, diffusion=diffusion.value, progress=report, say=_say
        )
    show(result, title=str(bundle), as_json=as_json)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def show_bundle(bundle: BundleArgument, *, as_json: JsonOption = False) -> None:
    """Say what a bundle holds; its files are not checked."""
    from contract.bundle import show as describe

    result = describe(bundle)
    if not as_json:  # the schema is for programs: a page of nested fields
        result = {name: value for name, value in result.items() if name != "schema"}
    show(result, title=str(bundle), as_json=as_json)


def verify_bundle(bundle: BundleArgument, *, as_json: JsonOption = False) -> None:
    """Check every file, then score the golden requests, as a service does before it is ready."""
    with extras("serve"):
        from service.settings import RuntimeSettings
        from service.wiring.assembly import verify
        from service.wiring.explained import open_explained

        verified = verify(bundle, RuntimeSettings())
        explains = verified.bundle.explained_path is not None
        if explains:
            open_explained(verified.bundle, RuntimeSettings())
    manifest = verified.bundle.manifest
    result = {
        "name": manifest.name,
        "version": manifest.version,
        "files": len(manifest.files) + 1,
        "golden_requests": verified.golden_requests,
        "largest_difference": verified.largest_difference,
        "tolerance": manifest.tolerance,
        "explains": explains,
        "ok": True,
    }
    show(result, title=str(bundle), as_json=as_json)
