"""What the routes know of the service they stand before, slots included; `wiring` fills it in.

A slot holds a bundle. The champion answers; the challenger answers its share of the users, always the same ones; the
shadow scores after the answer and is heard by nobody. All slots change together, by one assignment of a line-up: a
request holds on to what it began with.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from xxhash import xxh3_64_intdigest

from contract.closeness import Closeness
from contract.schema import Schema
from service.api.body import Body, BodyReader
from service.api.head import read_head
from service.errors import NotReadyError, UnknownModelError
from service.history.result import StoreState
from service.scoring.scorer import Scorer

Slot: TypeAlias = Literal["champion", "challenger", "shadow"]

CHAMPION: Final[Slot] = "champion"
CHALLENGER: Final[Slot] = "challenger"
SHADOW: Final[Slot] = "shadow"
SLOTS: Final[tuple[Slot, ...]] = (CHAMPION, CHALLENGER, SHADOW)

_HASHES: Final = 2**64


@dataclass(slots=True, eq=False)
class Served:
    """A verified bundle with everything that scores by it.

    Attributes:
        scorer: of requests that are answered.
        shadow_scorer: of those that were answered by another bundle.
        reader: of bodies with this bundle's fields.
        schema: its fields; where its fingerprint is equal, a body read by one reader serves the other.
        longest_explanation: most behaviours that explain one score; 0 = the bundle has no explanations.
        closeness: of its scores to those that its run gives offline.
        inside: requests that it works on; once it is in no slot, it is closed after the last of them.

    """

    name: str
    version: str
    scorer: Scorer
    shadow_scorer: Scorer
    reader: BodyReader
    schema: Schema
    closeness: Closeness
    longest_explanation: int = 0
    inside: int = 0


class Lineup:
    """What the slots hold at one time; never changed, but replaced.

    Args:
        slots: the champion at least.
        share: of the users whose requests the challenger answers, in 0..1.

    """

    def __init__(self, slots: Mapping[Slot, Served], *, share: float = 0.0) -> None:
        self.slots = slots
        self.share = share
        self.champion = slots[CHAMPION]
        challenger = slots.get(CHALLENGER)
        self._challenger = challenger if share else None
        # another challenger draws other users; a larger share keeps those it had
        self._salt = f"{challenger.name} {challenger.version} " if challenger else ""
        self._one_body = len({served.schema.fingerprint() for served in slots.values()}) == 1
        self._by_name: dict[str, Served] = {}
        for slot in reversed(SLOTS):
            if slot in slots:
                self._by_name[slots[slot].name] = slots[slot]
        for slot, served in slots.items():
            self._by_name[slot] = served

    def read(self, raw: bytes, *, msgpack: bool) -> tuple[Served, Body]:
        """Return what answers a request, and its validated body.

        Raises:
            UnknownModelError: it names what is not served.
            RequestSyntaxError, InvalidRequestError: see `BodyReader`.

        """
        if self._one_body:
            body = _read(self.champion, raw, msgpack=msgpack)
            return self.pick(body.get("model"), body["user_id"]), body
        served = self.pick(*read_head(raw, msgpack=msgpack))
        return served, _read(served, raw, msgpack=msgpack)

    def pick(self, model: str | None, user_id: str | int | None) -> Served:
        """Return what answers: by the name of a slot or of a bundle, else by the user.

        A name that several bundles have means the first of champion, challenger and shadow that has it. Anonymous
        users can't be told apart, so the champion answers them.

        Raises:
            UnknownModelError: nothing has that name.

        """
        if model is not None:
            named = self._by_name.get(model)
            if named is None:
                raise UnknownModelError(
                    f"no model {model!r} is served here; there are {', '.join(self._by_name)}"
                )
            return named
        if self._challenger is None or user_id is None:
            return self.champion
        drawn = (
            xxh3_64_intdigest(f"{self._salt}{user_id}".encode(errors="surrogatepass")) < self.share * _HASHES
        )
        return self._challenger if drawn else self.champion


def _read(served: Served, raw: bytes, *, msgpack: bool) -> Body:
    return served.reader.read_msgpack(raw) if msgpack else served.reader.read_json(raw)


@dataclass(slots=True)
class ServiceState:
    """The life of one worker: starting, ready, draining.

    Attributes:
        reason: why it is not ready; "" once it is.
        lineup: what it serves, once that is verified; assigned anew when a slot changes.
        draining: it was told to end.
        store: gives the state of the champion's store.

    """

    reason: str = "starting: the bundle is being verified"
    lineup: Lineup | None = None
    draining: bool = False
    store: Callable[[], StoreState] = field(default=StoreState)

    def problem(self) -> str:
        """Return why the service is not ready, or "" if it is."""
        if self.draining:
            return "shutting down"
        return self.reason or self.store().problem

    def require(self) -> Lineup:
        """Return what is served; while draining too, for requests that are still on their way.

        Raises:
            NotReadyError: nothing can be answered yet.

        """
        reason = self.reason or self.store().problem
        if reason or self.lineup is None:
            raise NotReadyError(f"the service is not ready: {reason or 'starting'}")
        return self.lineup

    def meet(self) -> float:
        """Look at the load before a request is read; return how long it may have waited unseen, in seconds.

        Raises:
            OverloadedError: it should be refused unread.

        """
        return 0.0 if self.lineup is None else self.lineup.champion.scorer.meet()

    def report(self) -> dict[str, Any]:
        """Return the body of `/readyz`."""
        store = self.store()
        problem = self.problem()
        body: dict[str, Any] = {"ready": not problem}
        if problem:
            body["reason"] = problem
        if self.lineup is not None:
            champion = self.lineup.champion
            body["model"] = {
                "name": champion.name,
                "version": champion.version,
                "hard_routing": champion.closeness.hard_routing,
                "tolerance": champion.closeness.tolerance,
                "farthest": champion.closeness.farthest,
            }
            body["slots"] = {
                slot: {"name": served.name, "version": served.version}
                for slot, served in self.lineup.slots.items()
            }
        body["store"] = {
            "up": store.up,
            "layout": store.layout,
            **({"detail": store.problem or store.error} if store.problem or store.error else {}),
        }
        return body
