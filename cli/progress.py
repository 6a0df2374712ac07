"""How far a long step is: a bar on a terminal, one line per step elsewhere; always on stderr.

Libraries know nothing of this: they are given `progress(done, total, label)`.
"""

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

REPEAT_S: Final = 15.0
RUNNING_FIGURE: Final = re.compile("[:,]")  # what follows in a label changes while its step goes on

ProgressCallback: TypeAlias = Callable[[int, int | None, str], None]


@contextmanager
def progress() -> Iterator[ProgressCallback]:
    """Yield the callback that a library reports to: `progress(done, total or None, label)`."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines()
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


class Lines:
    """One line when a step begins, and one now and then: logs want milestones, not motion."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage: str | None = None
        self._written_s = 0.0

    def __call__(self, done: int, total: int | None, label: str) -> None:
        """Take a report; write a line if it is time for one."""
        stage = RUNNING_FIGURE.split(label, maxsplit=1)[0]
        if stage == self._stage and self._clock() - self._written_s < REPEAT_S:
            return
        amount = "" if stage != self._stage else f" {done:,}" if total is None else f" {done:,}/{total:,}"
        self._stage = stage
        self._written_s = self._clock()
        sys.stderr.write(f"{label}{amount}\n")
        sys.stderr.flush()
