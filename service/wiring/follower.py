"""Keeps one worker's slots as the slot file says, and prepares what another worker proposes."""

import asyncio
import logging
import time
from typing import Final

from contract.errors import BundleError, InputError, LongsightError
from service.errors import BundleRefusedError, StartError
from service.wiring.exchange import Exchange, Proposal, Report
from service.wiring.keeper import SlotKeeper
from service.wiring.slot_file import SlotFile, SlotState

POLL_S: Final = 0.05
TRY_AGAIN_S: Final = 5.0
REMEDY: Final = (
    "the service serves what was meant: put that version back, or POST /models/champion with what lies there, "
    "or restart the service, which then begins with that"
)

logger = logging.getLogger(__name__)


class Follower:
    """Follows the slot file and the proposals.

    Args:
        keeper: of this worker's slots.
        file: what they should be.
        exchange: with the other workers.

    """

    def __init__(self, keeper: SlotKeeper, file: SlotFile, exchange: Exchange) -> None:
        self._keeper = keeper
        self._file = file
        self._exchange = exchange
        self._report = Report()
        self._preparing: asyncio.Task[None] | None = None
        self._token = ""
        self._not_before_s = 0.0
        self._running: asyncio.Task[None] | None = None

    async def begin(self, *, replaces: bool = False) -> None:
        """Take over what the workers have agreed upon.

        Args:
            replaces: the others serve it already: no other versions will do.

        Raises:
            LongsightError: the champion can't be served.

        """
        self._exchange.report(self._report)
        state = self._agreed()
        try:
            await self._keeper.begin(state)
        except BundleError as error:
            if replaces:
                raise BundleError(f"{error} ({REMEDY})") from error
            if not state.generation:
                raise
            raise BundleError(
                f"{error} ({self._file.path} names it; remove that file to begin with {state.given})"
            ) from error

    async def join(self) -> None:
        """Serve from now on, with what was agreed upon meanwhile; changes are followed from here."""
        self._keeper.serve()
        # told first, looked after: a change that does not wait for us is one that we see
        self._say(serving=True, generation=self._generation)
        while (wanted := self._newer()) is not None:
            await self._adopt(wanted)
        self._running = asyncio.create_task(self._run(), name="slots")

    async def close(self) -> None:
        """Stop following."""
        for task in (self._running, self._preparing):
            if task is not None:
                await _end(task)

    @property
    def _generation(self) -> int:
        assert self._keeper.state is not None, "followed before the start: this is a bug"
        return self._keeper.state.generation

    def _agreed(self) -> SlotState:
        """Return what the service began with, or what the file says that was agreed upon since.

        Raises:
            StartError: the others serve something later.

        """
        began, kept = self._exchange.began(), self._file.read()
        state = began if kept is None or kept.generation == began.generation else kept
        others = [report.generation for report in self._exchange.reports().values() if report.serving]
        if others and max(others) > state.generation:
            raise StartError(
                f"{self._file.path} is not what the other workers serve, which is generation {max(others)}; "
                "change a slot, which writes it, or restart the service"
            )
        return state

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
            except Exception as error:
                if isinstance(error, LongsightError | OSError):
                    logger.error("slots: %s", error)  # noqa: TRY400 - the line says it all
                else:  # a bug, but a worker that follows no more would hold up every change from then on
                    logger.exception("slots: could not be followed")
                self._not_before_s = time.monotonic() + TRY_AGAIN_S
            await asyncio.sleep(POLL_S)

    async def _look(self) -> None:
        # looked for first: whoever withdrew it has written the file before, and what is spare may be needed for that
        proposal = self._exchange.proposal()
        wanted = self._newer()
        if wanted is not None and time.monotonic() >= self._not_before_s:
            await self._adopt(wanted)
            wanted = None
        if proposal is None:
            if wanted is None:
                await self._drop()
        elif proposal.token != self._token:
            await self._drop()
            self._token = proposal.token
            self._preparing = asyncio.create_task(self._prepare(proposal), name="preparing slots")

    def _newer(self) -> SlotState | None:
        """Return what the file says, if it is not what is served."""
        kept = self._file.read()
        return kept if kept is not None and kept.generation != self._generation else None

    async def _adopt(self, state: SlotState) -> None:
        if self._preparing is not None and not self._preparing.done():
            await _end(self._preparing)
        try:
            await self._keeper.adopt(state)
        except Exception as error:
            self._say(outcome="failed", reason=str(error))
            raise
        self._say(generation=state.generation)

    async def _prepare(self, proposal: Proposal) -> None:
        try:
            await self._keeper.prepare(proposal.state, proposal.slot)
        except Exception as error:
            if not isinstance(error, LongsightError):
                logger.exception("slots: a bundle could not be prepared")
            refused = isinstance(error, InputError | BundleRefusedError)
            self._say(token=proposal.token, outcome="failed", reason=str(error), refused=refused)
        else:
            self._say(token=proposal.token, outcome="prepared", reason="", refused=False)

    async def _drop(self) -> None:
        """Nothing is asked for any more: what was prepared or replaced is not needed."""
        if self._preparing is not None:
            await _end(self._preparing)
            self._preparing = None
        self._keeper.discard()

    def _say(self, **changes: object) -> None:
        self._report = self._report.model_copy(update=changes)
        self._exchange.report(self._report)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
