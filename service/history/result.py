"""What the store answers: a history, and the state of the store itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from contract.records import Records
from contract.schema import RawValue
from service.history.mark import Mark

Status: TypeAlias = Literal["hit", "empty", "timeout", "unavailable"]


@dataclass(frozen=True, slots=True)
class History:
    """One user as of one moment; never an exception, so that a request is always scored.

    Attributes:
        records: packed, oldest first, at most L, all strictly before the request's time less the history lag.
        status: hit (records found), empty (the store has none), timeout (late: scored without),
            unavailable (no store, or a value that can't be read).
        newest_age_s: seconds between the newest record and the request; None without records.
        profile: raw values of the schema's user fields that are known (numbers for numeric fields).
        extended: one read was not enough to find L records before the request's time.
        follows: `records` are only what was appended since the mark that the caller sent.
        current: the store did not have to be asked: nothing has changed since that mark.
        held: all that was read, also what is too new for the request, if a mark may be kept of it.
        mark: of the value as it was read, for a later read; None where what was sent stays as good.
        detail: why, if status is timeout or unavailable.

    """

    records: Records
    status: Status
    newest_age_s: int | None = None
    profile: Mapping[str, RawValue] = field(default_factory=dict)
    extended: bool = False
    follows: bool = False
    current: bool = False
    held: Records | None = None
    mark: Mark | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class StoreState:
    """How the store is doing.

    Attributes:
        seen: it has answered at least once since the start.
        up: there is a connection, and the last exchange over it worked.
        breaker_open: reads are answered `unavailable` at once, since the store kept failing or being late.
        layout: the number of this schema's layout; None: there is none yet.
        problem: why histories can't be served from this store although it answers (foreign layouts); else "".
        error: the last failure while not `up`; else "".

    """

    seen: bool = False
    up: bool = False
    breaker_open: bool = False
    layout: int | None = None
    problem: str = ""
    error: str = ""

    @property
    def ready(self) -> bool:
        """It answers, and holds this schema's layout or nothing at all."""
        return self.up and not self.problem
