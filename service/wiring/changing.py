"""Changes a slot in all workers: everyone prepares, one file is renamed into place, everyone switches.

Whichever worker gets the request leads. Until the rename nothing has changed, and a leader that dies takes its
proposal with it; after it the change is made, whoever dies: every worker, also one that is only starting, follows the
file. A worker that can't follow in time has everything set back, to what all have kept meanwhile.
"""

import asyncio
import contextlib
import logging
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from contract.errors import BundleError, InputError
from service.api.models import SlotChange
from service.api.state import CHALLENGER, CHAMPION, SLOTS, ServiceState, Slot
from service.errors import BundleRefusedError, InvalidRequestError, SlotChangeError, SlotConflictError
from service.wiring.exchange import Exchange, Proposal, Report
from service.wiring.keeper import SlotKeeper
from service.wiring.slot_file import DEFAULT_SHARE, Held, Ref, SlotFile, SlotState

LOOK_S: Final = 0.02
SWITCH_S: Final = 10.0  # all is prepared, so this is a worker that hangs
BACK_S: Final = 2.0  # all is there still, but for the worker that hangs
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")

logger = logging.getLogger(__name__)


class SlotChanger:
    """Answers what is asked about slots.

    Args:
        service: must be ready before anything is changed.
        keeper: of this worker's slots.
        file: what all workers' slots should be.
        exchange: with the other workers.
        root: the folder whose bundles may be named.
        timeout_s: longest time for all workers to prepare.
        clock: seconds.

    """

    def __init__(
        self,
        service: ServiceState,
        *,
        keeper: SlotKeeper,
        file: SlotFile,
        exchange: Exchange,
        root: Path,
        timeout_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._service = service
        self._keeper = keeper
        self._file = file
        self._exchange = exchange
        self._root = root.resolve()
        self._timeout_s = timeout_s
        self._clock = clock

    def describe(self) -> dict[str, Any]:
        """Return the slots, as this worker serves them."""
        state = self._state()
        return {"generation": state.generation, "slots": [self._row(state, slot) for slot in SLOTS]}

    async def put(self, slot: Slot, change: SlotChange) -> None:
        """Put a bundle into a slot, or nothing; returns once all workers serve it.

        Raises:
            BundleRefusedError, SlotConflictError, SlotChangeError: nothing has changed; see there.
            InvalidRequestError: the change makes no sense for this slot.

        """
        if change.share is not None and slot != CHALLENGER:
            raise InvalidRequestError.at("share", "only the challenger has one")
        if change.bundle is None and slot == CHAMPION:
            raise InvalidRequestError.at("bundle", "the champion can't be empty; name another bundle")

        def put(state: SlotState) -> Held:
            held = state.slots.get(slot, Held(bundle=None))
            ref = None if change.bundle is None else self._named(change.bundle)
            previous = held.previous if ref == held.bundle else held.bundle or held.previous
            share = change.share
            if slot == CHALLENGER and share is None:
                share = (
                    held.share if ref is None else DEFAULT_SHARE
                )  # an emptied slot keeps it for the way back
            return Held(bundle=ref, share=share, previous=previous)

        await self._change(slot, put)

    async def roll_back(self, slot: Slot) -> None:
        """Put back what a slot held before; raises as `put`."""

        def back(state: SlotState) -> Held:
            held = state.slots.get(slot, Held(bundle=None))
            if held.previous is not None:
                _check_still_there(held.previous)
            elif slot == CHAMPION or held.bundle is None:
                raise SlotConflictError(
                    f"the {slot} slot has held nothing before: there is nothing to go back to"
                )
            share = DEFAULT_SHARE if slot == CHALLENGER and held.share is None else held.share
            return Held(bundle=held.previous, share=share, previous=held.bundle)

        await self._change(slot, back)

    # ---------------------------------------------------------------- the change

    async def _change(self, slot: Slot, make: Callable[[SlotState], Held]) -> None:
        self._service.require()
        with self._exchange.claimed():
            before = self._state()
            self._check_newest(before)
            held = make(before)
            if held == before.slots.get(slot, Held(bundle=None)):
                return
            try:
                await asyncio.to_thread(self._file.check_writable)
                with self._file.claimed():
                    self._check_newest(before)  # nobody changes it from here on
                    await self._agree(slot, before, before.with_slot(slot, held))
            except InputError as error:
                raise SlotChangeError(f"what the slots hold can't be kept: {error}") from error

    def _check_newest(self, state: SlotState) -> None:
        kept = self._file.read()
        if kept is not None and kept.generation != state.generation:
            raise SlotConflictError("this worker is about to follow another change; ask again")

    async def _agree(self, slot: Slot, before: SlotState, wanted: SlotState) -> None:
        token = secrets.token_hex(8)
        try:
            self._exchange.propose(Proposal(token=token, owner=os.getpid(), slot=slot, state=wanted))
            await self._prepared(token)
            await asyncio.to_thread(self._file.write, wanted)
            try:
                await self._switched(wanted, within_s=SWITCH_S)
            except SlotChangeError:
                again = before.model_copy(update={"generation": wanted.generation + 1})
                await asyncio.to_thread(self._file.write, again)
                with contextlib.suppress(SlotChangeError):
                    await self._switched(again, within_s=BACK_S)
                logger.exception("slots: set back to what they were")
                raise
        finally:
            self._exchange.withdraw()

    async def _prepared(self, token: str) -> None:
        """Wait until every worker that answers has prepared."""
        asked = {pid for pid, report in self._exchange.reports().items() if report.serving}
        until_s = self._clock() + self._timeout_s
        while True:
            reports = self._serving()
            if lost := asked - reports.keys():
                raise SlotChangeError(f"worker {min(lost)} ended while it prepared; the change is given up")
            for pid, report in reports.items():
                if report.token == token and report.outcome == "failed":
                    kind = BundleRefusedError if report.refused else SlotChangeError
                    raise kind(report.reason if report.refused else f"worker {pid}: {report.reason}")
            if all(report.token == token for report in reports.values()):
                return
            if self._clock() > until_s:
                late = sorted(pid for pid, report in reports.items() if report.token != token)
                raise SlotChangeError(
                    f"worker(s) {late} did not get ready for it within {self._timeout_s:g} s; "
                    "models.switch_timeout_s is how long they have"
                )
            await asyncio.sleep(LOOK_S)

    async def _switched(self, wanted: SlotState, *, within_s: float) -> None:
        """Wait until every worker that answers serves what is wanted."""
        until_s = self._clock() + within_s
        while behind := {
            pid: report for pid, report in self._serving().items() if not _follows(report, wanted)
        }:
            if self._clock() > until_s:
                raise SlotChangeError(f"worker(s) {sorted(behind)} did not switch; all go back")
            await asyncio.sleep(LOOK_S)

    def _serving(self) -> dict[int, Report]:
        return {pid: report for pid, report in self._exchange.reports().items() if report.serving}

    # ---------------------------------------------------------------- bundles and their names

    def _state(self) -> SlotState:
        self._service.require()
        assert self._keeper.state is not None, "ready without slots: this is a bug"
        return self._keeper.state

    def _named(self, name: str) -> Ref:
        """Return the bundle of a name under the root; never anything outside it."""
        if not _NAME.fullmatch(name):
            raise BundleRefusedError(
                f"{name!r} is no name of a bundle: letters, digits, _ - and ., folders set apart by /, "
                "and nothing that starts with a dot"
            )
        path = (self._root / name).resolve()
        if not path.is_relative_to(self._root):
            raise BundleRefusedError(f"{name!r} leads out of the folder of bundles")
        try:
            return Ref.of(path)
        except BundleError as error:
            raise BundleRefusedError(str(error)) from error

    def _row(self, state: SlotState, slot: Slot) -> dict[str, Any]:
        held = state.slots.get(slot, Held(bundle=None))
        row = {
            "slot": slot,
            "name": None,
            "version": None,
            "bundle": None,
            **self._words(held.bundle),
            "share": None if held.bundle is None else held.share,
            "previous": self._words(held.previous) or None,
        }
        problem = self._keeper.missing.get(slot)
        return {**row, "problem": problem} if problem else row

    def _words(self, ref: Ref | None) -> dict[str, str]:
        if ref is None:
            return {}
        inside = ref.path.is_relative_to(self._root)
        bundle = ref.path.relative_to(self._root).as_posix() if inside else str(ref.path)
        return {"name": ref.name, "version": ref.version, "bundle": bundle}


def _follows(report: Report, wanted: SlotState) -> bool:
    return report.generation == wanted.generation


def _check_still_there(ref: Ref) -> None:
    try:
        found = Ref.of(ref.path)
    except BundleError as error:
        raise SlotConflictError(f"what the slot held before is not there any more: {error}") from error
    if found.version != ref.version:
        raise SlotConflictError(
            f"{ref.path} holds version {found.version} now, not {ref.version}, which the slot held before"
        )
