"""What one worker has in its slots: builds what is missing, switches by one assignment, lets go of what was.

What was served before a switch is kept until the change is over: a change that is set back needs nothing from disk.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
from collections.abc import Mapping
from typing import Final, TypeAlias

from contract.errors import LongsightError
from service.api.state import CHALLENGER, CHAMPION, Lineup, ServiceState, Slot
from service.errors import BundleRefusedError
from service.wiring.slot_file import DEFAULT_SHARE, Ref, SlotState
from service.wiring.unit import Shared, Unit, unit_of

STORE_WAIT_S: Final = 5.0

Units: TypeAlias = dict[Ref, Unit]

logger = logging.getLogger(__name__)


class SlotKeeper:
    """The bundles of one worker.

    Args:
        shared: what they share.
        service: whose line-up is assigned.

    Attributes:
        state: what was taken over last.
        missing: slots that should hold a bundle and don't, and why.

    """

    def __init__(self, shared: Shared, service: ServiceState) -> None:
        self.state: SlotState | None = None
        self.missing: dict[Slot, str] = {}
        self._shared = shared
        self._service = service
        self._units: Units = {}
        self._spare: Units = {}  # prepared, or just replaced: the change may go on or back
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def champion(self) -> Unit:
        """What answers."""
        assert self.state is not None, "asked before the start: this is a bug"
        ref = self.state.ref(CHAMPION)
        assert ref is not None, "a state has a champion: this is a bug"
        return self._units[ref]

    async def begin(self, state: SlotState) -> None:
        """Build what the slots hold at the start; without a challenger or a shadow that can't be served.

        Raises:
            LongsightError: the champion can't be served; says why.

        """
        await self.prepare(state, CHAMPION, patient=False)
        await self._prepare_others(state)
        self.state = state
        self._units, self._spare = self._spare, {}

    def serve(self) -> None:
        """Let requests in: the line-up of the state is what the routes see from now on."""
        assert self.state is not None, "asked before the start: this is a bug"
        served = {slot: unit.served for slot, unit in self._held(self.state).items()}
        challenger = self.state.slots.get(CHALLENGER)
        share = DEFAULT_SHARE if challenger is None or challenger.share is None else challenger.share
        store = self.champion.store
        self._service.store = lambda: store.state
        self._service.lineup = Lineup(served, share=share)
        self._shared.metrics.show_models({slot: (one.name, one.version) for slot, one in served.items()})

    async def prepare(self, state: SlotState, slot: Slot, *, patient: bool = True) -> None:
        """Build and warm what one slot of a state needs, beside what serves; `adopt` or `discard` then.

        Args:
            state: one that may be taken over later.
            slot: the one that changes.
            patient: wait for store and catalogue.

        Raises:
            LongsightError: it can't be served; says why.

        """
        ref = state.ref(slot)
        if ref is None or ref in self._units or ref in self._spare:
            return
        unit = await unit_of(ref, self._shared)
        self._spare[ref] = unit
        if patient:
            await _check_store(unit)

    async def adopt(self, state: SlotState) -> None:
        """Take over a state that others have agreed upon; what was prepared for it is ready.

        What it replaces can be gone back to until `discard`.

        Raises:
            LongsightError: its champion can't be served here; all is as before.

        """
        await self.prepare(state, CHAMPION)
        await self._prepare_others(state)
        self.state = state
        wanted = {state.ref(slot) for slot in state.slots}
        units = self._units | self._spare
        self._units = {ref: unit for ref, unit in units.items() if ref in wanted}
        self._spare = {ref: unit for ref, unit in units.items() if ref not in wanted}
        self.serve()
        names = [
            f"{slot} {unit.served.name} {unit.served.version}" for slot, unit in self._held(state).items()
        ]
        logger.info("slots, generation %d: %s", state.generation, ", ".join(names))

    def discard(self) -> None:
        """The change is over: let go of what was prepared and is not used, or was replaced."""
        while self._spare:
            self._let_go(self._spare.popitem()[1])

    async def close(self) -> None:
        """Close everything; requests have ended."""
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        for unit in [*self._units.values(), *self._spare.values()]:
            await unit.close()

    async def _prepare_others(self, state: SlotState) -> None:
        self.missing = {}
        for slot in state.slots:
            if slot == CHAMPION:
                continue
            try:
                await self.prepare(state, slot, patient=False)
            except LongsightError as error:
                self.missing[slot] = str(error)
                logger.error("the %s can't be served: %s", slot, error)  # noqa: TRY400 - the line says it all

    def _held(self, state: SlotState) -> Mapping[Slot, Unit]:
        refs = {slot: state.ref(slot) for slot in state.slots}
        return {slot: self._units[ref] for slot, ref in refs.items() if ref in self._units}

    def _let_go(self, unit: Unit) -> None:
        task = asyncio.create_task(_leave(unit), name=f"leaving {unit.ref.version}")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


async def _check_store(unit: Unit) -> None:
    """Wait until the store has answered for a new bundle, and its ads are there.

    A store that is down stops nobody: answers are degraded then, by the old bundle as by the new one.

    Raises:
        BundleRefusedError: the store holds other schemas.

    """
    store = await unit.store.wait(STORE_WAIT_S)
    if store.problem:
        raise BundleRefusedError(f"{unit.ref.path}: {store.problem}")
    while store.ready and not await unit.catalogue.wait(STORE_WAIT_S):
        store = unit.store.state


async def _leave(unit: Unit) -> None:
    name = f"{unit.served.name} {unit.served.version}"
    await unit.close()
    del unit
    gc.collect()  # what was made since the start, and little of that: start-up's objects are frozen
    await asyncio.to_thread(_trim)
    logger.info("%s is closed", name)


def _trim() -> None:
    """Give freed memory back to the system, where the C library can: glibc else keeps it, for a next bundle or not."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
