"""What is remembered of a user's value, so that a later read brings only what was appended since: length and end.

Records are appended, now and then inserted, trimmed from the front, or replaced by a bulk load; a record's bytes are
unique within a user. So if the old end lies where the growth of the length says it should, nothing happened but
appending: whatever is inserted or trimmed moves the end by more, or less, than that. What this can't see is a bulk load
that changes older records only and neither their number nor the end; so nobody should rely on a mark for long.
"""

from dataclasses import dataclass
from typing import Final

MARK_RECORDS: Final = 16  # of the end: as many less one may be appended before the whole is read again


@dataclass(frozen=True, slots=True)
class Mark:
    """A value as it was read.

    Attributes:
        total_bytes: its length.
        end: its newest `MARK_RECORDS` records, or all if there are fewer.

    """

    total_bytes: int
    end: bytes

    def appended(self, end: bytes, total_bytes: int, size: int) -> bytes | None:
        """Return what was appended since, maybe nothing; None: anything else may have happened.

        Args:
            end: the value's newest `MARK_RECORDS` records now.
            total_bytes: its length now.
            size: bytes of a record.

        """
        grown = total_bytes - self.total_bytes
        if not grown:
            return b"" if end == self.end else None
        if grown < 0 or grown % size:
            return None
        before = end[:-grown]
        common = min(len(before), len(self.end))
        return end[-grown:] if common and before[-common:] == self.end[-common:] else None
