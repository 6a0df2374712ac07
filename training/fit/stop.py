"""Ctrl-C and SIGTERM during training: finish the step, keep the position, then stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class StoppedError(KeyboardInterrupt):
    """Training was asked to stop and has kept its position; `--resume` goes on from there."""

    def __init__(self, message: str, *, number: int) -> None:
        super().__init__(message)
        self.number = number
        """The signal."""


class StopFlag:
    """Whether a signal has come."""

    number: int | None = None

    @property
    def asked(self) -> bool:
        """Tell whether training should stop."""
        return self.number is not None


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Yield a flag that the first signal sets; the second one acts as it would have without this.

    Outside the main thread, where Python takes no signals, the flag is never set.
    """
    flag = StopFlag()
    before: dict[int, Any] = {}

    def set_flag(number: int, _frame: FrameType | None) -> None:
        flag.number = number
        _restore(before)

    try:
        for number in SIGNALS:
            before[number] = signal.signal(number, set_flag)
    except ValueError:  # not the main thread
        before.clear()
    try:
        yield flag
    finally:
        _restore(before)


def _restore(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
