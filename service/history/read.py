"""One request's read of one user: the commands it needs next, and what becomes of their replies."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from redis.exceptions import ResponseError

from contract.records import Records, empty_records, record_dtype
from contract.schema import RawValue, Schema
from service.history.connection import pack
from service.history.mark import MARK_RECORDS, Mark
from service.history.result import History
from service.history.window import DamagedValueError, Window
from service.layout import EXTRA_RECORDS, Layout


@dataclass(frozen=True)
class ReadPlan:
    """What all reads of one store have in common.

    Attributes:
        dtype: of a packed record.
        nothing: no records.
        length: L, records wanted.
        lag_s: seconds before the request's time at which its history ends.
        numeric: per profile field, in order, whether its text is a number.

    """

    dtype: np.dtype[np.void]
    nothing: Records
    length: int
    lag_s: int
    fields: tuple[str, ...]
    numeric: tuple[bool, ...]
    fields_packed: tuple[bytes, ...]

    @classmethod
    def of(cls, schema: Schema, length: int, lag_s: int) -> Self:
        """Return the plan for a schema."""
        names = tuple(field.name for field in schema.user)
        return cls(
            dtype=record_dtype(schema),
            nothing=empty_records(schema),
            length=length,
            lag_s=lag_s,
            fields=names,
            numeric=tuple(field.type == "numeric" for field in schema.user),
            fields_packed=tuple(name.encode() for name in names),
        )

    def profile(self, values: Sequence[bytes | None]) -> dict[str, RawValue]:
        """Return the fields that are known, numbers parsed.

        Raises:
            ValueError: a text that is no number or no UTF-8.

        """
        known = zip(self.fields, self.numeric, values, strict=True)
        return {
            name: float(value) if numeric else value.decode()
            for name, numeric, value in known
            if value is not None
        }


class Read:
    """A waiting read.

    Args:
        plan: of the store.
        user_key: whose.
        at: the request's time, seconds.
        answer: where the history goes.
        known: what the caller holds of the user; if only appending happened since, that is all the answer has.

    Attributes:
        expected: how many replies the last `commands` will bring.
        complaint: what was wrong with the value, if that is why it is unavailable.
        unchanged: the answer's mark, and the answer to whoever sends that, as long as nothing changes; None = it had no
            mark, or more than one round trip, between which something may have changed.
        confirms: the mark that is current as far as the server has told; one word of it confirms that this was all.
        timer: ends the wait for an answer.
        whole: nothing known may be, or was, part of the answer.

    """

    __slots__ = (
        "_at",
        "_known",
        "_lost",
        "_plan",
        "_profile",
        "_trips",
        "_window",
        "answer",
        "complaint",
        "confirms",
        "expected",
        "timer",
        "unchanged",
        "user_key",
        "whole",
    )

    def __init__(
        self,
        plan: ReadPlan,
        user_key: int,
        at: int,
        answer: asyncio.Future[History],
        known: Mark | None = None,
    ) -> None:
        self._plan = plan
        self._at = at
        self._known = known
        self.whole = known is None
        self._profile: dict[str, RawValue] | None = None if plan.fields else {}
        self._window = Window(
            plan.dtype, wanted=plan.length, first=plan.length + EXTRA_RECORDS, cut=at - plan.lag_s
        )
        self.user_key = user_key
        self.answer = answer
        self._lost = False
        self._trips = 0
        self.expected = 0
        self.complaint = ""
        self.timer: asyncio.TimerHandle | None = None
        self.unchanged: tuple[Mark, History] | None = None
        self.confirms: Mark | None = None

    def commands(self, layout: Layout) -> bytes:
        """Return the packed commands of the next round trip."""
        key = layout.history(self.user_key).encode()
        start, end = self._window.byte_range
        if self._known is not None:
            start, end = -MARK_RECORDS * self._plan.dtype.itemsize, -1
        # The length goes first: what another client writes between the two makes it too small for the end, and a
        # mark of both then matches nothing. The other way round the mark would hide that write.
        parts = [pack(b"STRLEN", key), pack(b"GETRANGE", key, b"%d" % start, b"%d" % end)]
        if self._profile is None:
            parts.append(pack(b"HMGET", layout.profile(self.user_key).encode(), *self._plan.fields_packed))
        self.expected = len(parts)
        return b"".join(parts)

    def take(self, replies: Sequence[object]) -> None:
        """Take the replies; afterwards the answer is there, or more must be read.

        Never raises: what can't be read makes the answer `unavailable` and is kept as the complaint.
        """
        self._trips += 1
        try:
            refused = next((reply for reply in replies if isinstance(reply, ResponseError)), None)
            if refused is not None:
                raise refused
            total, data, *profile = replies
            assert isinstance(data, bytes)
            assert isinstance(total, int)
            if profile:
                assert isinstance(profile[0], list)
                self._profile = self._plan.profile(profile[0])
            if self._known is not None:
                self._take_end(data, total)
                return
            records = self._window.take(data, total)
        except (ResponseError, DamagedValueError, ValueError) as error:
            self.complaint = str(error)
            self.fail("unavailable", self.complaint)
        else:
            if records is not None:
                self.finish(self._history(records, total))

    def lost_connection(self, detail: str) -> None:
        """The replies are lost: one more attempt over a new connection, but only one."""
        if self._lost:
            self.fail("unavailable", detail)
        self._lost = True

    def finish(self, history: History) -> None:
        """Answer, unless the caller has left or been answered already."""
        if self.timer is not None:
            self.timer.cancel()
        if not self.answer.done():
            self.answer.set_result(history)

    def fail(self, status: Literal["timeout", "unavailable"], detail: str) -> None:
        """Answer with nothing but a reason."""
        self.finish(History(self._plan.nothing, status, detail=detail))

    def _take_end(self, data: bytes, total: int) -> None:
        """Answer by the end of the value alone; if that can't be, the next round trip reads the whole."""
        known, self._known = self._known, None
        assert known is not None, "nothing to compare with: this is a bug"
        appended = known.appended(data, total, self._plan.dtype.itemsize)
        if appended is None:
            return
        times = np.frombuffer(data, dtype=self._plan.dtype)["timestamp"]
        if (times[1:] >= times[:-1]).all():
            records = np.frombuffer(appended, dtype=self._plan.dtype)
            # who sent the mark goes on holding it
            mark = Mark(total, data) if appended else known
            profile = self._profile or {}
            self._seen(mark, profile)
            self.finish(History(records, "hit", profile=profile, follows=True, mark=mark))

    def _seen(self, mark: Mark, profile: Mapping[str, RawValue]) -> None:
        if self._trips == 1:
            unchanged = History(self._plan.nothing, "hit", profile=profile, follows=True, current=True)
            self.unchanged = mark, unchanged

    def _history(self, records: Records, total: int) -> History:
        newest = int(records["timestamp"][-1]) if len(records) else None
        held = self._window.held
        # several chunks are more than most requests need: not worth keeping
        keeps = self._window.reads == 1 and len(held) > 0
        mark = Mark(total, held[-MARK_RECORDS:].tobytes()) if keeps else None
        if mark is not None:
            self._seen(mark, self._profile or {})
        return History(
            records,
            "hit" if newest is not None else "empty",
            newest_age_s=None if newest is None else self._at - newest,
            profile=self._profile or {},
            extended=self._window.reads > 1,
            held=held if keeps else None,
            mark=mark,
        )
