"""Reads the Parquet tables of a raw data set and refuses, with file and column, what is not as it should be."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias

import polars as pl

from contract.errors import InputError, LogError

Kind: TypeAlias = Literal["integer", "text", "time"]


@dataclass(frozen=True)
class Column:
    """What a raw column has to hold."""

    kind: Kind
    nullable: bool = False


def raw_folder(raw: Path | None, *, package: str, data: str, wheel: str) -> Path:
    """Return `raw`, or, where that path does not exist, the folder `data` of the installed `package`.

    The package is located, not imported. Raises `InputError` when there is neither.
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
    raise InputError(f"{missing} and the package {wheel} is not installed: install it (extra demo) or give a folder")


class RawTables:
    """The tables `<name>.parquet` of one folder, checked on opening against the columns they must have."""

    def __init__(self, folder: Path, tables: Mapping[str, Mapping[str, Column]]) -> None:
        """Check that every file and column is there with a fitting type; raise `LogError` if not."""
        self._folder = folder
        self._tables = tables
        for name, columns in tables.items():
            self._check_schema(name, columns)

    def read(self, name: str, columns: list[str] | None = None) -> pl.DataFrame:
        """Return the named columns (default: all declared); raise `LogError` at a null where none may be."""
        declared = self._tables[name]
        path = self.path(name)
        try:
            frame = pl.read_parquet(path, columns=columns or list(declared))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise LogError(f"{path}: not a readable Parquet file ({_first_line(error)})") from error
        for column in frame.columns:
            if not declared[column].nullable and frame[column].null_count():
                row = frame[column].is_null().arg_max()
                raise LogError(f"{path}: column {column!r}, row {row}: null, a value is required")
        return frame

    def path(self, name: str) -> Path:
        """Return the file of a table."""
        return self._folder / f"{name}.parquet"

    def _check_schema(self, name: str, columns: Mapping[str, Column]) -> None:
        path = self.path(name)
        if not path.is_file():
            raise LogError(f"{path}: missing; the raw folder must hold {', '.join(sorted(self._tables))} (.parquet)")
        try:
            found = pl.read_parquet_schema(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise LogError(f"{path}: not a readable Parquet file ({_first_line(error)})") from error
        for column, wanted in columns.items():
            if column not in found:
                raise LogError(f"{path}: column {column!r} is missing")
            if not _fits(found[column], wanted.kind):
                raise LogError(f"{path}: column {column!r} is {found[column]}, expected {_KINDS[wanted.kind]}")


_KINDS: dict[Kind, str] = {"integer": "integers", "text": "text", "time": "a date and time"}


def _fits(dtype: pl.DataType, kind: Kind) -> bool:
    if kind == "integer":
        return dtype.is_integer()
    if kind == "time":
        return isinstance(dtype, pl.Datetime)
    return isinstance(dtype, pl.String | pl.Categorical | pl.Enum)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
