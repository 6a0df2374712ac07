"""What the store would still answer: a mark is current until the server says that a key of its user has changed.

Server-assisted client-side caching, as Redis >= 6 and Valkey have it (`CLIENT TRACKING`): the server remembers which
keys were read over a connection, and pushes the name of each that is written, evicted or deleted afterwards. So the
user's next request needs no read at all. Nothing is current without a connection, since then nobody would tell.
"""

import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from service.history.mark import Mark
from service.history.result import History
from service.layout import user_of

MOST: Final = 1 << 16  # users, some 500 bytes each beside their marks


class _MarkOf(weakref.ref[Mark]):
    """A mark that lives as long as somebody holds what it stands for."""

    __slots__ = ("user_key",)
    user_key: int


@dataclass(frozen=True, slots=True)
class _Entry:
    mark: _MarkOf
    unchanged: History
    whole: bool


class Current:
    """What the store would answer to those who send a mark; of one connection, and of one layout.

    What changes while a round trip is under way may have been read by it before or after the change: such answers are
    not taken for current, so the user's next request reads again.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._under_way = False
        self._changed: set[int] = set()
        self._all_changed = False

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Nothing is current any more, nor what is being read now."""
        self._entries.clear()
        self._all_changed = True

    def begin(self) -> None:
        """A round trip begins."""
        self._under_way = True
        self._changed.clear()
        self._all_changed = False

    def end(self) -> None:
        """The round trip has ended, and all of it was noted."""
        self._under_way = False

    def changed(self, names: Sequence[bytes] | None) -> None:
        """The server says that these keys have changed; None = all."""
        if names is None:
            self.clear()
            return
        for name in names:
            user_key = user_of(name)
            if user_key is not None:
                self._entries.pop(user_key, None)
                if self._under_way:
                    self._changed.add(user_key)

    def note(self, user_key: int, mark: Mark, unchanged: History, *, whole: bool) -> None:
        """The round trip under way has read a user.

        Args:
            user_key: whose.
            mark: of what was read.
            unchanged: the answer to whoever sends that mark, as long as nothing changes.
            whole: nothing of what the mark stands for was taken from an earlier read.

        """
        if self._all_changed or user_key in self._changed:
            return
        held = _MarkOf(mark, self._dead)
        held.user_key = user_key
        self._entries[user_key] = _Entry(held, unchanged, whole)
        self._entries.move_to_end(user_key)
        if len(self._entries) > MOST:
            self._entries.popitem(last=False)

    def answer(self, user_key: int, mark: Mark, *, whole: bool) -> History | None:
        """Return the answer to a mark, if it is what the store holds; else None: ask.

        Args:
            user_key: whose.
            mark: what the caller holds.
            whole: only to who holds the very mark of a read of the whole: an equal one may stand for older records
                that have since been replaced by as many others.

        """
        entry = self._entries.get(user_key)
        if entry is None:
            return None
        current = entry.mark()
        if not (current is mark and entry.whole) and (whole or current != mark):
            return None
        self._entries.move_to_end(user_key)
        return entry.unchanged

    def _dead(self, mark: weakref.ref[Mark]) -> None:
        assert isinstance(mark, _MarkOf), "a mark of somebody else: this is a bug"
        entry = self._entries.get(mark.user_key)
        if entry is not None and entry.mark is mark:
            self._entries.pop(mark.user_key, None)
