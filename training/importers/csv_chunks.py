"""Reads a comma-separated file of any size in pieces; names file, line and column of what is not as it should be.

Most public logs quote nothing: there a comma is always a separator. A piece is parsed by polars; only when that
fails, or finds a value out of place, is the piece read again line by line to name the first one.
"""

import csv
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal, TypeAlias

import polars as pl

from contract.errors import LogError

Kind: TypeAlias = Literal["integer", "number", "text"]

NULL: Final = "NULL"
LARGEST_ID: Final = (1 << 32) - 2
"""Ids travel in 32 bits; the last of them stands for a missing one."""
HEADER_BYTES: Final = 1 << 16
LONGEST_LINE: Final = 1 << 20
"""Bytes; what goes on for longer is no table, and would not fit into the memory set aside."""
_TYPES: Final[dict[Kind, pl.DataType]] = {
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "text": pl.String(),
}
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")
_FOREIGN: Final = {
    b"\x1f\x8b": "is compressed with gzip; unpack it first",
    b"PK\x03\x04": "is a zip archive; unpack it first",
    b"\xff\xfe": "is UTF-16; convert it to UTF-8 first",
    b"\xfe\xff": "is UTF-16; convert it to UTF-8 first",
}


@dataclass(frozen=True)
class CsvColumn:
    """What a column has to hold; an empty value and NULL are missing ones."""

    kind: Kind
    nullable: bool = False
    low: float = -math.inf
    high: float = math.inf
    values: tuple[str, ...] = ()
    """Text: the only ones allowed (none given: any)."""

    @property
    def wanted(self) -> str:
        """Say what the column has to hold."""
        if self.values:
            return f"one of {', '.join(self.values)}"
        noun = {"integer": "an integer", "number": "a number", "text": "text"}[self.kind]
        if math.isinf(self.low) and math.isinf(self.high):
            return noun
        high = f"{self.high:,.0f}" if self.high < 1e16 else f"{self.high:g}"  # beyond, digits are noise
        return f"{noun} from {self.low:,.0f} to {high}"


ID: Final = CsvColumn("integer", low=0, high=LARGEST_ID)
OPTIONAL_ID: Final = CsvColumn("integer", nullable=True, low=0, high=LARGEST_ID)
STAMP: Final = CsvColumn("integer")
"""Any whole number: what lies outside the calendar is for the reader of the column to drop and count."""


@dataclass(frozen=True)
class Rule:
    """What the columns of one line have to do with each other."""

    what: str
    """Said of a line that breaks it."""
    broken: Callable[[pl.DataFrame], pl.Series]
    """Returns whether each row breaks it."""


class CsvFile:
    """One file of known columns.

    With a header, columns are found by name (blanks around a name do not count) and others are left aside;
    without one, every line holds exactly `columns`, in their order. `quoted`: a value in quotes may hold commas.

    Raises:
        LogError: on construction, if the file is missing, empty, not plain UTF-8 text or lacks a column.

    """

    def __init__(
        self,
        path: Path,
        columns: Mapping[str, CsvColumn],
        *,
        header: bool = True,
        quoted: bool = False,
        rule: Rule | None = None,
    ) -> None:
        self.path = path
        self._quoted = quoted
        self._rule = rule
        self._columns = dict(columns)
        self._header = header
        first = self._first_line()
        if header:
            self._names = [name.strip() for name in first.split(",")]
            self._check_names()
        else:
            self._names = list(columns)
        self._schema = {name: self._type(name) for name in self._names}

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    def chunks(self, size: int) -> Iterator[tuple[pl.DataFrame, int]]:
        """Yield frames of the declared columns and the bytes read so far; `size` = bytes of text in one.

        Raises:
            LogError: at the first line with a wrong number of fields or a value that its column can't hold.

        """
        with self._opened() as file:
            line = 1
            if self._header:
                file.readline()
                line += 1
            for text in _pieces(file, size):
                if len(text) > LONGEST_LINE and not text.endswith(b"\n"):
                    raise self.refuse(line, f"is longer than {LONGEST_LINE:,} bytes")
                yield self._parse(text, line), file.tell()
                line += text.count(b"\n")

    def sample(self, blocks: int, size: int) -> Iterator[pl.DataFrame]:
        """Yield what whole lines hold in `blocks` places of `size` bytes, evenly spread; bad places are left out."""
        step = max(self.size // blocks, size)
        with self._opened() as file:
            for start in range(0, self.size, step):
                file.seek(start)
                text = file.read(size)
                text = text[: text.rfind(b"\n") + 1]
                if start or self._header:
                    text = text[text.find(b"\n") + 1 :]
                try:
                    frame = self._frame(text) if text else None
                except pl.exceptions.PolarsError:
                    continue  # the reading of the whole file will say which line it is
                if frame is not None:
                    yield frame

    def refuse(self, line: int, what: str) -> LogError:
        """Return the error of one line (the header is line 1)."""
        return LogError(f"{self.path}: line {line:,}: {what}")

    def _first_line(self) -> str:
        if not self.path.is_file():
            raise LogError(f"{self.path}: no such file")
        with self.path.open("rb") as file:
            start = file.readline(HEADER_BYTES)
        for magic, what in _FOREIGN.items():
            if start.startswith(magic):
                raise LogError(f"{self.path}: {what}")
        if not start.strip():
            raise self.refuse(1, "is empty")
        if b"\0" in start:
            raise self.refuse(1, "holds null bytes; a plain UTF-8 text file is needed")
        try:
            return start.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise self.refuse(1, "is not UTF-8; convert the file first") from error

    def _check_names(self) -> None:
        for name in self._columns:
            if self._names.count(name) != 1:
                what = "is missing" if name not in self._names else "stands there twice"
                found = ", ".join(self._names)[:200]
                raise LogError(f"{self.path}: column {name!r} {what}; line 1 has {found}")

    def _type(self, name: str) -> pl.DataType:
        return _TYPES[self._columns[name].kind] if name in self._columns else pl.String()

    def _opened(self) -> BinaryIO:
        file = self.path.open("rb")
        if file.read(3) != b"\xef\xbb\xbf":
            file.seek(0)
        return file

    def _frame(self, text: bytes) -> pl.DataFrame:
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        frame = pl.read_csv(
            text,
            has_header=False,
            schema=self._schema,
            null_values=["", NULL],
            quote_char='"' if self._quoted else None,
        )
        return frame.select(list(self._columns))

    def _parse(self, text: bytes, line: int) -> pl.DataFrame:
        try:
            frame = self._frame(text)
            # polars fills up short lines; where commas may be quoted, they can't be counted
            whole = self._quoted or text.count(b",") == len(frame) * (len(self._names) - 1)
        except pl.exceptions.PolarsError as error:
            self._explain(text, line)
            problem = (str(error).splitlines() or [type(error).__name__])[0]
            raise self.refuse(line, f"or one of those after it is not readable: {problem}") from error
        if not whole or not all(self._fits(frame[name]) for name in self._columns):
            self._explain(text, line)
            raise self.refuse(line, "or one of those after it has a value out of place")
        if self._rule is not None:
            broken = self._rule.broken(frame).arg_true()
            if len(broken):
                raise self.refuse(line + int(broken[0]), self._rule.what)
        return frame

    def _fits(self, series: pl.Series) -> bool:
        column = self._columns[series.name]
        if series.null_count() and not column.nullable:
            return False
        if column.kind == "text":
            return not column.values or bool(series.drop_nulls().is_in(column.values).all())
        if column.kind == "number" and not series.drop_nulls().is_finite().all():
            return False
        inside = series.drop_nulls().is_between(column.low, column.high)
        return bool(inside.all())

    def _fields(self, line: str) -> list[str]:
        return next(csv.reader([line]), [""]) if self._quoted else line.split(",")

    def _explain(self, text: bytes, line: int) -> None:
        """Raise the error of the first line of `text` that is not as declared, if there is one."""
        for number, raw in enumerate(text.removesuffix(b"\n").split(b"\n"), start=line):
            try:
                fields = self._fields(raw.removesuffix(b"\r").decode())
            except UnicodeDecodeError as error:
                raise self.refuse(number, "is not UTF-8; convert the file first") from error
            if len(fields) != len(self._names):
                raise self.refuse(number, f"has {len(fields)} fields, not {len(self._names)}: {raw[:60]!r}")
            for name, field in zip(self._names, fields, strict=True):
                column = self._columns.get(name)
                if column is not None and not _holds(column, field):
                    raise self.refuse(number, f"column {name!r}: {field[:60]!r} is not {column.wanted}")


def _pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the rest of a file in pieces of about `size` bytes that end where a line does, or within too long a one."""
    rest = b""
    while block := file.read(size):
        end = block.rfind(b"\n") + 1
        if end:
            yield rest + block[:end]
            rest = block[end:]
        else:
            rest += block
            if len(rest) > LONGEST_LINE:
                yield rest
                rest = b""
    if rest:
        yield rest


def _holds(column: CsvColumn, field: str) -> bool:
    """Whether one value is as declared."""
    if field in {"", NULL}:
        return column.nullable
    if column.kind == "text":
        return not column.values or field in column.values
    if column.kind == "integer":
        return _INTEGER.fullmatch(field) is not None and column.low <= int(field) <= column.high
    try:
        value = float(field)
    except ValueError:
        return False
    return math.isfinite(value) and column.low <= value <= column.high
