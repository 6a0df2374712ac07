"""Keeps a dead store from costing every request its timeout. Pure: knows no Redis, is given its clock."""

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

State: TypeAlias = Literal["closed", "open", "half_open"]

FAILURES_TO_OPEN: Final = 3
COOLDOWN_S: Final = 0.5


class Breaker:
    """Closed: all pass. Open, after `failures` in a row: none pass for `cooldown_s`. Then half-open: one trial.

    The trial decides: success closes the breaker, failure opens it for another `cooldown_s`. A trial that never
    reports back is given up after `cooldown_s`, and the next caller becomes the trial.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        failures: int = FAILURES_TO_OPEN,
        cooldown_s: float = COOLDOWN_S,
    ) -> None:
        self._clock = clock
        self._limit = failures
        self._cooldown_s = cooldown_s
        self._failed = 0
        self._until: float | None = None  # while not closed: when the next trial may pass
        self._trying = False

    @property
    def state(self) -> State:
        """The state now."""
        if self._until is None:
            return "closed"
        return "half_open" if self._trying or self._clock() >= self._until else "open"

    @property
    def wait_s(self) -> float:
        """Seconds until the next trial may pass; 0 if one may now."""
        return 0.0 if self._until is None else max(0.0, self._until - self._clock())

    def allows(self) -> bool:
        """Whether the caller may pass; half-open, True makes the caller the trial."""
        if self._until is None:
            return True
        if self._clock() < self._until:
            return False
        self._until = self._clock() + self._cooldown_s
        self._trying = True
        return True

    def succeeded(self) -> None:
        """Report an answer in time."""
        self._failed = 0
        self._until = None
        self._trying = False

    def failed(self) -> None:
        """Report a failure or a late answer."""
        self._failed += 1
        if self._until is not None or self._failed >= self._limit:
            self.trip()

    def trip(self) -> None:
        """Open at once: the connection is known to be gone."""
        self._until = self._clock() + self._cooldown_s
        self._trying = False
