"""How far a long step is: a bar on a terminal, one line per step elsewhere; always on stderr.

Libraries know nothing of this: they are given `progress(done, total, label)`.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

ProgressCallback: TypeAlias = Callable[[int, int | None, str], None]


@contextmanager
def progress() -> Iterator[ProgressCallback]:
    """Yield the callback that a library reports to: `progress(done, total or None, label)`."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield _Bar(bar)


class _Bar:
    """One bar whose label follows the work."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("starting", total=None)

    def __call__(self, done: int, total: int | None, label: str) -> None:
        self._bar.update(self._task, completed=done, total=total, description=label)


class _Lines:
    """One line when a step begins: logs want milestones, not motion."""

    def __init__(self) -> None:
        self._stage: str | None = None

    def __call__(self, done: int, total: int | None, label: str) -> None:  # noqa: ARG002 - the callback's shape
        stage = label.partition(":")[0]  # what follows a colon is a running figure
        if stage != self._stage:
            self._stage = stage
            sys.stderr.write(f"{label}\n")
            sys.stderr.flush()
