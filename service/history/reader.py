"""Reads histories for requests: one connection, and whatever waits while it is busy goes out as one pipeline.

Nothing here raises to a request: a late or failed read is an empty history whose status says so. One task owns the
connection. Every second it also looks at `ls:meta`: that finds the layout once a log has been loaded, notices a
dead connection without traffic, and is the trial that closes the breaker, so that no request ever is.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from contract.schema import Schema
from service.history.breaker import Breaker
from service.history.connection import Link, LinkError, pack
from service.history.current import Current
from service.history.mark import Mark
from service.history.pipeline import Pipeline
from service.history.read import Read, ReadPlan
from service.history.result import History, StoreState
from service.history.state import OnState, Publisher
from service.layout import META, Layout, foreign

MAX_PIPELINE: Final = 64  # reads in one round trip, so that the first of them is not kept waiting by the last
META_EVERY_S: Final = 1.0
RETRY_S: Final = (0.02, 1.0)  # shortest and longest pause between attempts to connect
STALL_S: Final = 0.2  # least time after which a round trip is given up and its connection dropped
ANONYMOUS: Final = 0


class HistoryStore:
    """The histories and profiles of one store.

    Args:
        url: redis://, rediss:// or unix:// URL of Redis >= 7.0 or Valkey.
        schema: whose layout is read.
        history_length: L; a history holds at most so many records.
        lag_s: a history ends this much before the request's time (the bundle's `history_lag_s`).
        timeout_s: longest wait of one read, unless its deadline is earlier.
        connect_timeout_s: longest wait for a connection.
        tracking: have the server tell what changes; who has not changed since the caller's mark is not read again.
        confirm: ask for each pipeline of requests whether that was all; False = trust what has been told so far.
        clock: monotonic seconds; deadlines are on this clock.
        on_state: called with every new `StoreState`, from the loop.

    """

    def __init__(
        self,
        url: str,
        schema: Schema,
        *,
        history_length: int,
        lag_s: int = 0,
        timeout_s: float = 0.05,
        connect_timeout_s: float = 1.0,
        tracking: bool = True,
        confirm: bool = True,
        clock: Callable[[], float] = time.monotonic,
        on_state: OnState | None = None,
    ) -> None:
        self.layout: Layout | None = None
        self._schema = schema
        self._plan = ReadPlan.of(schema, history_length, lag_s)
        self._timeout_s = timeout_s
        self._stall_s = max(4 * timeout_s, STALL_S)
        self._clock = clock
        self._publisher = Publisher(on_state)
        self._current = Current()
        self._confirm = confirm
        self._link = Link(
            url,
            connect_timeout_s=connect_timeout_s,
            on_changed=self._current.changed if tracking else None,
            clock=clock,
        )
        self._breaker = Breaker(clock)
        self._pipeline = Pipeline(self._link, self._current, self._breaker, timeout_s=timeout_s, clock=clock)
        self._waiting: deque[Read] = deque()
        self._work = asyncio.Event()
        self._meta_due = True
        self._retry_s = RETRY_S[0]
        self._task: asyncio.Task[None] | None = None
        self._tick: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to connect, in the running loop; returns at once, whether Redis is there or not."""
        self._task = asyncio.create_task(self._run(), name="history-store")
        self._next_tick()

    @property
    def state(self) -> StoreState:
        """How the store is doing."""
        return self._publisher.state

    async def wait(self, timeout_s: float) -> StoreState:
        """Return the state once the store is ready or has a problem, or when `timeout_s` are over."""
        return await self._publisher.wait(timeout_s)

    async def close(self) -> None:
        """Stop; reads that wait are answered `unavailable`."""
        self._publisher.quiet = True
        if self._tick is not None:
            self._tick.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._down("the store's reader is closed")
        await self._link.drop()

    def fetch(
        self,
        user_key: int,
        at: int,
        deadline: float | None = None,
        known: Mark | None = None,
        *,
        whole: bool = False,
    ) -> asyncio.Future[History]:
        """Ask for the user's newest L records strictly before second `at` (less the lag), and the profile.

        A future rather than a coroutine: the read is on its way after one turn of the loop, without a task of its own.

        Args:
            user_key: the user's key; 0 = anonymous, who has neither.
            at: the request's time, seconds UTC.
            deadline: on the store's clock; the answer comes by then, if only to say `timeout`.
            known: an earlier answer's mark: if nothing but appending happened since, only that is read (`follows`),
                and nothing at all if the server would have told of any change (`current`).
            whole: read the whole unless nothing has changed since the whole was read.

        """
        loop = asyncio.get_running_loop()
        current = None
        if known is not None and not self.state.breaker_open:
            current = self._current.answer(user_key, known, whole=whole)
            if current is not None and not self._confirm:
                answer: asyncio.Future[History] = loop.create_future()
                answer.set_result(current)
                return answer
        read = Read(self._plan, user_key, at, loop.create_future(), None if whole else known)
        if user_key == ANONYMOUS:
            read.finish(self._no_history(""))
        elif self.state.breaker_open:
            read.finish(self._no_history(self.state.error or "the store is late"))
        elif self.layout is None and (self.state.ready or self.state.problem):
            read.finish(self._no_history(self.state.problem))
        else:
            read.confirms = known if current is not None else None
            wait_s = self._timeout_s if deadline is None else min(self._timeout_s, deadline - self._clock())
            read.timer = loop.call_later(wait_s, read.fail, "timeout", "the store's answer is late")
            self._waiting.append(read)
            self._work.set()
        return read.answer

    def _no_history(self, why: str) -> History:
        return History(self._plan.nothing, "unavailable" if why else "empty", detail=why)

    # ---------------------------------------------------------------- the task that owns the connection

    async def _run(self) -> None:
        while True:
            try:
                if not self._link.connected:
                    await self._connect()
                await self._serve()
            except LinkError as error:
                await self._link.drop()
                self._down(str(error))
                await asyncio.sleep(self._retry_s)
                self._retry_s = min(2 * self._retry_s, RETRY_S[1])

    async def _connect(self) -> None:
        """Connect and look at `ls:meta`; reads do not wait for that longer than they may wait for an answer."""
        loop = asyncio.get_running_loop()
        slow = loop.call_later(self._timeout_s, self._down, "connecting takes long")
        try:
            await self._link.connect()
            await self._look_at_meta()
        finally:
            slow.cancel()
        self._breaker.succeeded()
        self._retry_s = RETRY_S[0]
        self._publisher.publish(breaker_open=False, error="")

    async def _serve(self) -> None:
        """Work until the connection is lost in a round trip; then another one is tried at once."""
        while self._link.connected:
            if self._breaker.state != "closed":
                if not self._breaker.allows():
                    self._refuse("the store keeps being late")
                    await asyncio.sleep(self._breaker.wait_s)
                    continue
                self._meta_due = True
            elif not (self._waiting or self._meta_due):
                self._work.clear()
                await self._work.wait()
            if self._meta_due and self._link.could_track:
                await self._link.drop()
            elif self._meta_due:
                await self._look_at_meta()
            else:
                await self._read_some()

    async def _look_at_meta(self) -> None:
        """Find the layout; in time, this closes an open breaker."""
        self._meta_due = False
        began = self._clock()
        try:
            async with asyncio.timeout(self._stall_s):
                self._link.send(pack(b"HGETALL", META.encode()))
                [reply] = await self._link.replies(1)
        except TimeoutError as error:
            raise LinkError(f"no answer within {self._stall_s} s") from error
        meta = dict(zip(reply[::2], reply[1::2], strict=True)) if isinstance(reply, list) else reply
        if not isinstance(meta, dict):
            raise LinkError(f"{META}: {reply}")
        layout = Layout.find(meta, self._schema)
        if layout != self.layout:
            self._current.clear()
        self.layout = layout
        problem = foreign(meta, self._schema) if meta and self.layout is None else ""
        if self._clock() - began > self._timeout_s:
            self._breaker.failed()
        elif self._breaker.state != "closed":
            self._breaker.succeeded()
        number = self.layout.number if self.layout else None
        shut = self._breaker.state == "closed"
        self._publisher.publish(
            seen=True,
            up=True,
            layout=number,
            problem=problem,
            breaker_open=not shut,
            error="" if shut else self.state.error,
        )

    async def _read_some(self) -> None:
        """One round trip for what waits; a lost connection costs each read one more attempt."""
        reads = self._next_reads()
        if not reads or self.layout is None:
            return
        unfinished = set(reads)
        try:
            async with asyncio.timeout(self._stall_s):
                await self._pipeline.run(reads, unfinished, self.layout)
        except (LinkError, TimeoutError) as error:
            await self._link.drop()
            self._breaker.failed()
            for read in unfinished:
                read.lost_connection(str(error) or f"no answer within {self._stall_s} s")
        finally:
            # unfinished reads go first: those of the past need another chunk, the others another connection
            self._waiting.extendleft(read for read in reversed(reads) if not read.answer.done())

    def _next_reads(self) -> list[Read]:
        reads: list[Read] = []
        while self._waiting and len(reads) < MAX_PIPELINE:
            read = self._waiting.popleft()
            if read.answer.done():
                continue
            if self.layout is None:
                read.finish(self._no_history(self.state.problem))
            else:
                reads.append(read)
        return reads

    # ---------------------------------------------------------------- state

    def _down(self, error: str) -> None:
        """There is no connection: what waits or is asked now is answered at once."""
        self._breaker.trip()
        self._refuse(error, up=False)

    def _refuse(self, error: str, *, up: bool = True) -> None:
        self._publisher.publish(up=up, breaker_open=True, error=error)
        while self._waiting:
            self._waiting.popleft().fail("unavailable", error)

    def _next_tick(self) -> None:
        self._meta_due = True
        self._work.set()
        self._tick = asyncio.get_running_loop().call_later(META_EVERY_S, self._next_tick)
