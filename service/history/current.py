"""What the store would still answer: a mark is current until the server says that a key of its user has changed.

Server-assisted client-side caching, as Redis >= 6 and Valkey have it (`CLIENT TRACKING`): the server remembers which
keys were read over a connection, and pushes the name of each that is written, expires or is evicted afterwards. So the
user's next request needs no read at all. Nothing is current without a connection, since then nobody would tell.
"""

from collections.abc import Sequence
from typing import Final

from service.history.mark import Mark
from service.history.result import History
from service.layout import user_of

MOST: Final = 1 << 16  # users, about 1 KB each
_NONE: Final = None, False


class Current:
    """What the store would answer to those who send a mark; of one connection, and of one layout.

    What changes while a round trip is under way may have been read by it before or after the change: such answers are
    not taken for current, so the user's next request reads again.
    """

    def __init__(self) -> None:
        self._answers: dict[int, tuple[History, bool]] = {}
        self._changed: set[int] = set()
        self._all_changed = False

    def __len__(self) -> int:
        return len(self._answers)

    def clear(self) -> None:
        """Nothing is current any more, nor what is being read now."""
        self._answers.clear()
        self._all_changed = True

    def begin(self) -> None:
        """A round trip begins; the one before has ended."""
        self._changed.clear()
        self._all_changed = False

    def changed(self, names: Sequence[bytes] | None) -> None:
        """The server says that these keys have changed; None = all."""
        if names is None:
            self.clear()
            return
        for name in names:
            user_key = user_of(name)
            if user_key is not None:
                self._answers.pop(user_key, None)
                self._changed.add(user_key)

    def read(self, user_key: int, unchanged: History, *, whole: bool) -> None:
        """The round trip under way has read a user: who sends the answer's mark would be told so much.

        Args:
            user_key: whose.
            unchanged: the answer.
            whole: nothing of what the mark stands for was taken from an earlier read.

        """
        if self._all_changed or user_key in self._changed:
            return
        self._answers[user_key] = unchanged, whole
        if len(self._answers) > MOST:
            del self._answers[next(iter(self._answers))]

    def answer(self, user_key: int, mark: Mark, *, whole: bool) -> History | None:
        """Return the answer to a mark, if it is what the store holds; else None: ask.

        Args:
            user_key: whose.
            mark: what the caller holds.
            whole: only if nothing has changed since all of that was read at once.

        """
        answer, read_whole = self._answers.get(user_key, _NONE)
        if answer is None or (whole and not read_whole) or (answer.mark is not mark and answer.mark != mark):
            return None
        return answer
