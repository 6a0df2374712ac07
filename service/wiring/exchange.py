"""How the workers of one service agree on their slots: small files in a folder of their own, renamed into place.

`began.json` is what the service was started with, decided once, so that a worker that comes later loads no other
versions than those that serve. `<pid>.json` is a worker's report; `proposal.json` what one of them asks all to
prepare; whoever proposes holds the lock on `lock`, which the kernel drops with its process. The folder (`presence`)
needs no flush.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from service.api.state import Slot
from service.errors import SlotConflictError
from service.wiring.claim import claimed
from service.wiring.slot_file import SlotState, Stamp

BEGAN: Final = "began.json"
PROPOSAL: Final = "proposal.json"
LOCK: Final = "lock"


class Report(BaseModel):
    """What a worker says of itself.

    Attributes:
        serving: it answers; before that it will look at the slot file itself, and nobody waits for it.
        generation: of the slots that it serves.
        token: of the proposal that it dealt with last.
        outcome: of that: it can switch, or why not.
        refused: the bundle is at fault, not the worker.

    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    serving: bool = False
    generation: int = -1
    token: str = ""
    outcome: Literal["", "prepared", "failed"] = ""
    reason: str = ""
    refused: bool = False


class Proposal(BaseModel):
    """What all workers are asked to prepare."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    token: str
    owner: int
    slot: Slot
    state: SlotState


class Exchange:
    """One worker's access to the folder.

    Args:
        folder: see `service.wiring.presence`.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._own = folder / f"{os.getpid()}.json"
        self._stamp: Stamp | None = None
        self._proposal: Proposal | None = None

    def begin(self, state: SlotState) -> None:
        """Say what the service begins with; once, before there are workers."""
        _replace(self.folder / BEGAN, state.model_dump_json())

    def began(self) -> SlotState:
        """Return what the service began with."""
        return SlotState.model_validate_json((self.folder / BEGAN).read_bytes())

    def report(self, report: Report) -> None:
        """Say how this worker is."""
        _replace(self._own, report.model_dump_json())

    def reports(self) -> dict[int, Report]:
        """Return what all living workers say, by process id."""
        found = {}
        for path in self.folder.glob("[0-9]*.json"):
            with contextlib.suppress(FileNotFoundError):
                found[int(path.stem)] = Report.model_validate_json(path.read_bytes())
        return found

    def propose(self, proposal: Proposal) -> None:
        """Ask all workers to prepare; under `claimed` alone."""
        _replace(self.folder / PROPOSAL, proposal.model_dump_json())

    def proposal(self) -> Proposal | None:
        """Return what is asked for, if anything is and its owner lives.

        That of a dead one is left where it is: it may be another one by the time it could be removed.
        """
        found = self._read()
        return found if found is not None and _lives(found.owner) else None

    def owner(self) -> int | None:
        """Return whose proposal there is, if there is one; dead or alive."""
        found = self._read()
        return None if found is None else found.owner

    def withdraw(self) -> None:
        """Ask no more; under `claimed` alone."""
        (self.folder / PROPOSAL).unlink(missing_ok=True)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Be the only one that changes slots.

        Raises:
            SlotConflictError: another one is.

        """
        refusal = "another change of the slots is under way; ask again after it"
        with claimed(self.folder / LOCK, refusal=refusal):
            yield

    def _read(self) -> Proposal | None:
        path = self.folder / PROPOSAL
        try:
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if stamp != self._stamp:
                self._proposal = Proposal.model_validate_json(path.read_bytes())
                self._stamp = stamp
        except (FileNotFoundError, ValidationError):
            self._stamp = self._proposal = None
        return self._proposal


def forget_worker(folder: Path, pid: int) -> None:
    """Remove the report of a worker that died, so that nobody waits for it, and its proposal."""
    (folder / f"{pid}.json").unlink(missing_ok=True)
    exchange = Exchange(folder)
    with contextlib.suppress(SlotConflictError), exchange.claimed():  # else it is about to be replaced anyway
        if exchange.owner() == pid:
            exchange.withdraw()


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
