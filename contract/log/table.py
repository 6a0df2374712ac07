"""One Parquet table of a log under inspection: every refusal names file, column and first bad row (from 0)."""

import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import polars as pl

from contract import keys
from contract.errors import LogError
from contract.records import MAX_TIMESTAMP
from contract.schema import LARGEST_NUMBER, SchemaField

SECONDS_LIMIT: Final = 100_000_000_000  # later than the year 5100: milliseconds, surely
_ID_TYPES: Final = (pl.String, pl.Categorical, pl.Enum)
_UNREADABLE: Final = (pl.exceptions.PolarsError, OSError)


class TableFile:
    """A Parquet file (or a folder of them) that is read whole or in pieces of rows.

    Raises:
        LogError: there is no such file, or it is no Parquet.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise LogError(f"{path}: no such file; the log is incomplete")
        if path.is_file() and not path.stat().st_size:
            raise LogError(f"{path}: is an empty file (0 bytes); write the table again")
        try:
            self.scan = pl.scan_parquet(path, glob=not path.is_file())
            self.columns = self.scan.collect_schema().names()
            self.rows = int(self.scan.select(pl.len()).collect().item())
        except _UNREADABLE as error:
            raise self._unreadable(error) from error

    def read(
        self, columns: Sequence[str] | None = None, *, first: int = 0, count: int | None = None
    ) -> "Table":
        """Return rows `first` .. `first + count`; of `columns` those that the file has."""
        names = self.columns if columns is None else [name for name in columns if name in self.columns]
        try:
            frame = self.scan.select(names).slice(first, count).collect()
        except _UNREADABLE as error:
            raise self._unreadable(error) from error
        return Table(self.path, frame, first_row=first, columns=self.columns)

    def _unreadable(self, error: Exception) -> LogError:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return LogError(f"{self.path}: not readable as Parquet: {reason}")


class Table:
    """Rows of one Parquet file.

    Args:
        path: the file, for messages.
        frame: the rows; checks may replace it by one with columns added or cast.
        first_row: where in the file the first of them stands.
        columns: all columns of the file, for messages.

    """

    def __init__(self, path: Path, frame: pl.DataFrame, *, first_row: int, columns: Sequence[str]) -> None:
        self.path = path
        self.frame = frame
        self.first_row = first_row
        self._columns = columns

    def refuse(self, column: str, bad: pl.Series, what: str) -> None:
        """Refuse the table if any row is bad."""
        rows = bad.fill_null(value=False).arg_true()
        if len(rows):
            row = int(rows[0])
            raise refusal(self.path, column, self.first_row + row, self.frame[column][row], what)

    def column(self, name: str) -> pl.Series:
        """Return a column that must be there."""
        if name not in self.frame.columns:
            raise LogError(f"{self.path}: column {name!r} is missing; it has {', '.join(self._columns)}")
        return self.frame[name]

    def no_nulls(self, name: str) -> None:
        """Refuse nulls."""
        self.refuse(name, self.column(name).is_null(), "is null; this column is required in every row")

    def require_id(self, name: str, *, nulls: bool = False) -> None:
        """Require a column of ids: strings or integers, neither empty nor too long."""
        column = self.column(name)
        if not (column.dtype in _ID_TYPES or column.dtype.is_integer()):
            raise self._mistyped(name, "a string or an integer")
        if not nulls:
            self.no_nulls(name)
        if column.dtype.is_integer():
            return
        size = column.cast(pl.String).str.len_bytes()
        self.refuse(name, size == 0, "is empty; ids are non-empty strings or integers")
        self.refuse(name, size > keys.MAX_ID_BYTES, f"is longer than {keys.MAX_ID_BYTES} bytes")

    def optional_id(self, name: str) -> None:
        """Check a column of ids that may be absent, all null, or null here and there."""
        if name in self.frame.columns and self.frame[name].dtype != pl.Null:
            self.require_id(name, nulls=True)
        else:
            self.frame = self.frame.with_columns(pl.lit(None, dtype=pl.String).alias(name))

    def require_timestamp(self) -> None:
        """Require `timestamp`: integers, seconds since 1970 that fit a record; cast to int64."""
        column = self.column("timestamp")
        if not column.dtype.is_integer():
            raise self._mistyped("timestamp", "int64 seconds UTC")
        self.no_nulls("timestamp")
        column = column.cast(pl.Float64)  # a narrow integer can't be compared with the limits
        self.refuse("timestamp", column >= SECONDS_LIMIT, "looks like milliseconds; give seconds UTC")
        self.refuse("timestamp", column < 0, "is negative; timestamps are seconds since 1970 UTC")
        self.refuse("timestamp", column > MAX_TIMESTAMP, f"is later than {MAX_TIMESTAMP}, the last one kept")
        self.frame = self.frame.with_columns(pl.col("timestamp").cast(pl.Int64))

    def require_clicked(self) -> None:
        """Require `clicked`: 0 or 1, integer or boolean."""
        column = self.column("clicked")
        if not (column.dtype.is_integer() or column.dtype == pl.Boolean):
            raise self._mistyped("clicked", "0 or 1")
        self.no_nulls("clicked")
        self.refuse("clicked", ~column.cast(pl.Float64).is_in([0.0, 1.0]), "is neither 0 nor 1")

    def optional_rate(self) -> None:
        """Check `sampling_rate`, which may be absent or null; whether all or none is known: `refuse_mixed_rates`."""
        name = "sampling_rate"
        if name not in self.frame.columns or self.frame[name].dtype == pl.Null:
            self.frame = self.frame.with_columns(pl.lit(None, dtype=pl.Float64).alias(name))
            return
        column = self.frame[name]
        if not column.dtype.is_numeric():
            raise self._mistyped(name, "a number in (0, 1] or null")
        self.refuse(name, ~((column > 0) & (column <= 1)), "is outside (0, 1]; null = unknown")

    def require_field(self, field: SchemaField, *, nulls: bool, absent: bool = False) -> None:
        """Check a schema field's column; `absent`: a table without it has nulls there instead."""
        name = field.name
        numeric = field.type == "numeric"
        if absent and name not in self.frame.columns:
            dtype = pl.Float64 if numeric else pl.String
            self.frame = self.frame.with_columns(pl.lit(None, dtype=dtype).alias(name))
            return
        column = self.column(name)
        if column.dtype == pl.Null and nulls:
            self.frame = self.frame.with_columns(column.cast(pl.Float64 if numeric else pl.String))
        elif not numeric:
            self.require_id(name, nulls=nulls)
        elif not column.dtype.is_numeric():
            raise self._mistyped(name, "a number, as the schema says")
        else:
            if not nulls:
                self.no_nulls(name)
            wide = column.cast(pl.Float64)
            self.refuse(name, ~wide.is_finite(), "is not finite; null = missing")
            self.refuse(name, wide.abs() > LARGEST_NUMBER, "is too large a number")

    def require_values(self, name: str, allowed: list[str], what: str) -> None:
        """Require a column of texts out of a list."""
        if self.column(name).dtype not in _ID_TYPES:
            raise self._mistyped(name, "a string")
        self.no_nulls(name)
        self.refuse(
            name, ~self.frame[name].cast(pl.String).is_in(allowed), f"is {what} ({', '.join(allowed)})"
        )

    def require_unique(self, name: str) -> None:
        """Refuse an id that stands twice in these rows."""
        self.refuse(name, ~self.frame[name].is_first_distinct(), TWICE)

    def _mistyped(self, name: str, wanted: str) -> LogError:
        return LogError(f"{self.path}: column {name!r} is {self.frame[name].dtype}; it must be {wanted}")


TWICE: Final = "appears twice"
TWO_REQUESTS: Final = "has two users or timestamps; a request is one user at one time"


def refusal(path: Path, column: str, row: int, value: object, what: str) -> LogError:
    """Return the error that names one bad value and its place."""
    return LogError(f"{path}: column {column!r}, row {row}: {reprlib.repr(value)} {what}")


def refuse_mixed_rates(path: Path, *, known: bool, first_null: int | None) -> None:
    """Refuse a table that knows some of its sampling rates: `first_null` is the first row without one."""
    if known and first_null is not None:
        raise LogError(
            f"{path}: column 'sampling_rate', row {first_null}: null among known rates; all or none"
        )
