"""The one place where a request is let in or turned away: whole, counted in candidates, and by what it can still make.

A request with a deadline is let in only if it is expected to be answered in time: after the work that goes before it
and its own run, as the engine has learnt how long runs take, and after everything that is not the engine's (history,
encoding, turns of the event loop), as the last answers took. Used on the event loop alone.
"""

import math
from dataclasses import dataclass
from typing import Final

from service.batching.lag import LagGuard
from service.batching.policy import due_s
from service.errors import DeadlineOutOfReachError, LoopBehindError, OverloadedError

SMOOTHING: Final = 1 / 16
LEAST_GROWTH: Final = 1.001  # per answer: the least time is that of lately
LEAST_RETRY_S: Final = 1
MARGIN: Final = 1.5  # waits vary, and smaller requests that come later may pass
MOST_LONELY: Final = 1.25  # requests inside, on average, when one comes


@dataclass(slots=True, eq=False)
class Ticket:
    """A request inside: its candidates, what its run is expected to take, and when it is due."""

    candidates: int
    expected_s: float
    due_s: float


class Admission:
    """Knows what is inside this worker.

    Args:
        capacity: most candidates inside at one time.
        places: runs of the graph at the same time.

    """

    def __init__(self, capacity: int, *, places: int = 1) -> None:
        self.capacity = capacity
        self.inside = 0
        self._guard = LagGuard()
        self._lag_s = 0.0
        self._outside_s = 0.0
        self._least_outside_s = math.inf
        self._places = places
        self._tickets: set[Ticket] = set()
        self._usual_requests = 1.0
        self._work_s = 0.0

    @property
    def requests(self) -> int:
        """Requests inside."""
        return len(self._tickets)

    @property
    def lonely(self) -> bool:
        """Whether there is one request inside, as there mostly was lately: others are not expected meanwhile."""
        return len(self._tickets) == 1 and self._usual_requests < MOST_LONELY

    def meet(self, lag_s: float, now_s: float) -> None:
        """Learn of a request that was not read yet.

        Args:
            lag_s: how long requests wait for the event loop now.
            now_s: reading of the clock.

        Raises:
            LoopBehindError: the event loop can't keep up, and this one should not be read.

        """
        # a turn is long for the one request that it answers, too: with nobody inside, nobody waits
        self._lag_s = lag_s = lag_s if self._tickets else 0.0
        if self._guard.refuses(lag_s, now_s):
            raise LoopBehindError(
                f"requests wait {1e3 * lag_s:.1f} ms to be read, and deadlines are missed for it",
                retry_after_s=self._retry_after_s(),
            )

    def enter(
        self,
        candidates: int,
        *,
        now_s: float = 0.0,
        expected_s: float = 0.0,
        deadline_s: float = math.inf,
    ) -> Ticket:
        """Let a request in; pair with `leave`.

        Args:
            candidates: N.
            now_s: reading of the clock.
            expected_s: how long its run will take; 0 = not known, and then no deadline is out of reach.
            deadline_s: reading of the clock; infinite = none.

        Raises:
            OverloadedError: its candidates don't all fit; nothing was counted.
            DeadlineOutOfReachError: likewise, since it would be answered too late.

        """
        if self.inside + candidates > self.capacity:
            raise OverloadedError(
                f"{self.inside} candidates are being scored and {candidates} more do not fit into {self.capacity}",
                retry_after_s=self._retry_after_s(),
            )
        ticket = Ticket(candidates, expected_s, due_s(now_s, expected_s, deadline_s))
        self._check(ticket, now_s, deadline_s, MARGIN * (self._outside_s + self._lag_s))
        self.inside += candidates
        self._tickets.add(ticket)
        self._usual_requests += (len(self._tickets) - self._usual_requests) * SMOOTHING
        self._work_s += expected_s
        return ticket

    def check(self, ticket: Ticket, *, now_s: float, expected_s: float, deadline_s: float) -> None:
        """Look again at a request inside whose size is known by now.

        Raises:
            DeadlineOutOfReachError: it would be answered too late; it is still inside.

        """
        self._work_s += expected_s - ticket.expected_s
        ticket.expected_s = expected_s
        ticket.due_s = due_s(now_s, expected_s, deadline_s)
        self._check(ticket, now_s, deadline_s, 0.0)

    def leave(self, ticket: Ticket) -> None:
        """Give back what `enter` counted."""
        self._tickets.remove(ticket)
        self.inside -= ticket.candidates
        # sums of floats drift; an empty worker has no work
        self._work_s = self._work_s - ticket.expected_s if self._tickets else 0.0

    def answered(self, outside_s: float) -> None:
        """Learn how long an answer took beside waiting for its run and running."""
        self._outside_s += (outside_s - self._outside_s) * SMOOTHING
        less = outside_s < self._least_outside_s
        self._least_outside_s = outside_s if less else self._least_outside_s * LEAST_GROWTH

    def _check(self, ticket: Ticket, now_s: float, deadline_s: float, outside_s: float) -> None:
        """Refuse what can't be answered in time; what is alone is let in, or nothing would be learnt any more."""
        others = len(self._tickets) - (ticket in self._tickets)
        if not others or not ticket.expected_s or deadline_s == math.inf:
            return
        left_s = deadline_s - now_s - outside_s - ticket.expected_s
        if MARGIN * self._work_s <= left_s * self._places:
            return
        wait_s = MARGIN * self._ahead_s(ticket) / self._places
        if wait_s <= left_s:
            return
        if deadline_s - now_s > self._least_outside_s + ticket.expected_s:
            self._guard.alarm(now_s)
        total_s = outside_s + wait_s + ticket.expected_s
        raise DeadlineOutOfReachError(
            f"the answer is expected in {1e3 * total_s:.1f} ms ({1e3 * wait_s:.1f} ms of waiting for others), "
            f"{1e3 * max(0.0, deadline_s - now_s):.1f} ms are left until the deadline",
            retry_after_s=self._retry_after_s(),
        )

    def _ahead_s(self, ticket: Ticket) -> float:
        due = ticket.due_s
        return sum(other.expected_s for other in self._tickets if other.due_s <= due and other is not ticket)

    def _retry_after_s(self) -> int:
        return max(LEAST_RETRY_S, math.ceil(self._work_s / self._places))
