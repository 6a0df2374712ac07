"""The one place where a request is let in or turned away: whole, and counted in candidates."""

from service.errors import OverloadedError


class Admission:
    """Counts the candidates of all requests inside this worker.

    Args:
        capacity: most candidates inside at one time.

    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.inside = 0
        self.requests = 0

    def enter(self, candidates: int) -> None:
        """Let a request of so many candidates in; pair with `leave`.

        Raises:
            OverloadedError: they don't all fit; nothing was counted.

        """
        if self.inside + candidates > self.capacity:
            raise OverloadedError(
                f"{self.inside} candidates are being scored and {candidates} more do not fit into {self.capacity}"
            )
        self.inside += candidates
        self.requests += 1

    def leave(self, candidates: int) -> None:
        """Give back what `enter` counted."""
        self.inside -= candidates
        self.requests -= 1
        assert self.inside >= 0, "left more often than entered: this is a bug"
