"""Entry point of `longsight`: builds the program, and turns every error into one line and an exit code.

0 = done, 1 = it failed, 2 = what was given is wrong, 130 = interrupted.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Final

import typer

from cli.commands import bundle, data, demo, importing, judging, serving, synthesize, training
from contract.errors import LongsightError

INTERRUPTED: Final = 130
WRONG_USAGE: Final = 2
FAILED: Final = 1


def main() -> None:
    """Run the program on this process's arguments and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; errors go to stderr as one line.

    `--debug` may stand anywhere; it adds the traceback.
    """
    # onnxruntime's wheels report usage to their maker, and keep an id in the home folder, unless told before import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    debug = "--debug" in arguments
    words = [word for word in arguments if word != "--debug"] or ["--help"]
    try:
        code = build_app()(args=words, prog_name="longsight", standalone_mode=False)
    except LongsightError as error:
        return _fail(error, str(error), error.exit_code, debug=debug)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last line of defence: a user never meets a traceback unasked
        if hasattr(
            error, "format_message"
        ):  # the parser's own errors; their base class moves between releases
            return _fail(error, _usage(error), WRONG_USAGE, debug=debug)
        hint = "" if debug else " (run with --debug for the traceback)"
        return _fail(error, f"{type(error).__name__}: {error}{hint}", FAILED, debug=debug)
    return code if isinstance(code, int) else 0


def build_app() -> typer.Typer:
    """Assemble the program; no library of training or serving is imported by this."""
    app = typer.Typer(
        name="longsight",
        help="From an ad click log to a served click probability, over long behaviour histories.",
        epilog="Start here: longsight demo",
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for theme in (demo, importing, synthesize, data, training, judging, bundle, serving):
        theme.register(app)
    return app


def _options(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=lambda given: _version(given=given), is_eager=True, help="Show the version."
        ),
    ] = False,
) -> None:
    """From an ad click log to a served click probability, over long behaviour histories."""
    del debug, show_version  # --debug is taken from the arguments before they are parsed


def _version(*, given: bool) -> None:
    if given:
        typer.echo(f"longsight {version('longsight')}")
        raise typer.Exit


def _usage(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "longsight"
    message = error.format_message()  # type: ignore[attr-defined] # the caller looked
    return f"{message.rstrip('.')}; see '{command} --help'"


def _fail(error: BaseException, message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return code
