"""What the slots hold, as one file that is renamed into place: it outlives the processes, and all workers watch it.

The file belongs to the bundle that `serve` was given: who starts the service with another one means that one. Services
that were given the same one and the same folder share it: all follow it, and one at a time changes it.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contract.errors import BundleError, InputError
from contract.files import atomic_file
from contract.manifest import Manifest
from service.api.state import CHAMPION, Slot
from service.errors import StartError
from service.settings import Settings
from service.wiring.claim import claimed

Stamp: TypeAlias = tuple[int, int, int]
DEFAULT_SHARE: Final = 0.1
UNKEPT: Final = "slots.json"

logger = logging.getLogger(__name__)


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Ref(_Frozen):
    """One version of a bundle: where it lies, and what its manifest called it."""

    path: Path
    name: str
    version: str

    @classmethod
    def of(cls, path: Path) -> Self:
        """Return what lies in a folder.

        Raises:
            BundleError: no bundle does.

        """
        path = path.resolve()
        manifest = Manifest.read(path)
        return cls(path=path, name=manifest.name, version=manifest.version)


class Held(_Frozen):
    """What one slot holds.

    Attributes:
        bundle: None = nothing.
        share: of the users, for the challenger.
        previous: what it held before.

    """

    bundle: Ref | None
    share: float | None = Field(None, ge=0, le=1)
    previous: Ref | None = None


class SlotState(_Frozen):
    """All slots at one time.

    Attributes:
        given: the bundle that `serve` was started with.
        generation: grows with every change.

    """

    format: Literal[1] = 1
    given: Path
    generation: int = Field(ge=0)
    slots: dict[Slot, Held]

    @model_validator(mode="after")
    def _has_champion(self) -> Self:
        if CHAMPION not in self.slots or self.slots[CHAMPION].bundle is None:
            raise ValueError("there is no champion")
        return self

    def ref(self, slot: Slot) -> Ref | None:
        """Return the bundle in a slot, if there is one."""
        held = self.slots.get(slot)
        return held.bundle if held else None

    def with_slot(self, slot: Slot, held: Held) -> "SlotState":
        """Return the next generation, one slot changed."""
        slots = {**self.slots, slot: held}
        return self.model_copy(update={"slots": slots, "generation": self.generation + 1})


class SlotFile:
    """The file of one service.

    Args:
        path: of the file; need not exist, nor its folder.
        given: the bundle that `serve` was given.

    """

    def __init__(self, path: Path, given: Path) -> None:
        self.path = path.absolute()
        self._given = given.resolve()
        self._stamp: Stamp | None = None
        self._seen: SlotState | None = None
        self._foreign: Path | None = None  # the bundle whose slots are kept there instead

    def initial(self) -> SlotState:
        """Return what is kept, in the versions that lie there now, else the given bundle as champion and nothing else.

        Raises:
            BundleError: there is no bundle where one was given.
            StartError: the file is damaged.

        """
        kept = self.read()
        if kept is not None:
            return kept.model_copy(
                update={"slots": {slot: _as_found(held) for slot, held in kept.slots.items()}}
            )
        return SlotState(given=self._given, generation=0, slots={CHAMPION: Held(bundle=Ref.of(self._given))})

    def read(self) -> SlotState | None:
        """Return what is kept for the given bundle, if anything; the file is read when it is another than before.

        Raises:
            StartError: it is damaged.

        """
        try:
            stat = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            self._stamp = self._seen = self._foreign = None
            return None
        stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if stamp != self._stamp:
            self._seen = self._parse()
            self._stamp = stamp
        return self._seen

    def write(self, state: SlotState) -> None:
        """Keep a state, in one step; under `claimed` alone.

        Raises:
            InputError: the file can't be there; says why.

        """
        if self._foreign is not None:
            logger.warning("%s: what was kept for %s is replaced", self.path, self._foreign)
        with atomic_file(self.path) as temporary:
            temporary.write_text(state.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Be the only one that changes it, of all services that share it; after `check_writable`.

        Raises:
            SlotConflictError: another one does.
            InputError: nothing can be kept there.

        """
        lock = self.path.with_name(f".{self.path.name}.lock")
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(claimed(lock, refusal=f"another service changes {self.path}; ask again"))
            except OSError as error:
                raise InputError(f"{lock} can't be written: {error.strerror}") from error
            yield

    def check_writable(self) -> None:
        """Find out before the work whether `write` will do.

        Raises:
            InputError: it will not.

        """
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder} can't be made: {error.strerror}; set models.state_dir") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(f"{folder} can't be written to; set models.state_dir")

    def _parse(self) -> SlotState | None:
        try:
            state = SlotState.model_validate_json(self.path.read_bytes())
        except (OSError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise StartError(
                f"{self.path}: what the slots held is not readable ({reason}); "
                f"remove the file to begin with {self._given}"
            ) from error
        self._foreign = None if state.given == self._given else state.given
        if self._foreign is not None:
            logger.info("%s: kept for %s, not used with %s", self.path, state.given, self._given)
            return None
        return state


def slot_file(settings: Settings, exchange: Path) -> SlotFile:
    """Return the file of a service.

    Args:
        settings: with a bundle's path.
        exchange: the folder of the service's processes.

    """
    given, port = settings.bundle.path, settings.server.port
    assert given is not None, "serve checks it"
    # with any free port there is nothing by which the next start would know its file
    return SlotFile(settings.models.state_dir / f"{port}.json" if port else exchange / UNKEPT, given)


def _as_found(held: Held) -> Held:
    """Return a slot with the version that its folder holds now: who starts the service means what lies there."""
    if held.bundle is None:
        return held
    try:
        found = Ref.of(held.bundle.path)
    except BundleError:
        return held  # found out, and told, by who builds it
    if found != held.bundle:
        logger.warning(
            "%s: holds version %s now, no longer %s", found.path, found.version, held.bundle.version
        )
    return held.model_copy(update={"bundle": found})
