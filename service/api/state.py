"""What the routes know of the service they stand before; `wiring` fills it in."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from service.api.body import BodyReader
from service.errors import NotReadyError
from service.history.result import StoreState
from service.scoring.scorer import Scorer


@dataclass(frozen=True, slots=True)
class Served:
    """A verified bundle with everything that scores by it.

    Attributes:
        longest_explanation: most behaviours that explain one score; 0 = the bundle has no explanations.
        hard_routing: the model picks, so that rounding may move few scores far.

    """

    name: str
    version: str
    scorer: Scorer
    reader: BodyReader
    longest_explanation: int = 0
    hard_routing: bool = False


@dataclass(slots=True)
class ServiceState:
    """The life of one worker: starting, ready, draining.

    Attributes:
        reason: why it is not ready; "" once it is.
        served: what it serves, once that is verified.
        draining: it was told to end.
        store: gives the state of the store.
        started_s: when it began, on the clock of its wiring.

    """

    reason: str = "starting: the bundle is being verified"
    served: Served | None = None
    draining: bool = False
    store: Callable[[], StoreState] = field(default=StoreState)

    def problem(self) -> str:
        """Return why the service is not ready, or "" if it is."""
        if self.draining:
            return "shutting down"
        return self.reason or self.store().problem

    def require(self) -> Served:
        """Return what is served; while draining too, for requests that are still on their way.

        Raises:
            NotReadyError: nothing can be answered yet.

        """
        reason = self.reason or self.store().problem
        if reason or self.served is None:
            raise NotReadyError(f"the service is not ready: {reason or 'starting'}")
        return self.served

    def report(self) -> dict[str, Any]:
        """Return the body of `/readyz`."""
        store = self.store()
        problem = self.problem()
        body: dict[str, Any] = {"ready": not problem}
        if problem:
            body["reason"] = problem
        if self.served is not None:
            body["model"] = {
                "name": self.served.name,
                "version": self.served.version,
                "hard_routing": self.served.hard_routing,
            }
        body["store"] = {
            "up": store.up,
            "layout": store.layout,
            **({"detail": store.problem or store.error} if store.problem or store.error else {}),
        }
        return body
