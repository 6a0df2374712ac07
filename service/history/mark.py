"""What is remembered of a user's value, so that a later read brings only what was appended since: length and end.

Records are appended, now and then inserted, trimmed from the front, or replaced by a bulk load; a record's bytes are
unique within a user. So if the old end lies where the growth of the length says it should, nothing happened but
appending: whatever is inserted or trimmed moves the end by more, or less, than that. What this can't see is older
records that are replaced by as many others; so nobody should rely on a mark for long. The length must have been read
before the end: what is written between the two then makes the mark match nothing.
"""

from dataclasses import dataclass
from typing import Final

MARK_RECORDS: Final = 32  # of the end, read to compare
LEAST_COMPARED: Final = 16  # of the old end, or all of a shorter value; else the whole is read


@dataclass(frozen=True, slots=True, weakref_slot=True)
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
        if common < min(LEAST_COMPARED * size, len(self.end)) or not common:
            return None
        return end[-grown:] if before[-common:] == self.end[-common:] else None
