"""Writes a log folder under a temporary name beside its own and renames it: it is there whole, or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contract.errors import LogError

LOG_FILES = frozenset({"behaviors.parquet", "impressions.parquet", "ads.parquet", "users.parquet", "schema.toml"})


def check_target(log: Path) -> None:
    """Raise `LogError` unless `log` is free, an empty folder, or a log folder that may be replaced."""
    if log.is_symlink() or (log.exists() and not log.is_dir()):
        raise LogError(f"{log}: not a folder; give another name for the log folder")
    if not log.exists():
        return
    names = {entry.name for entry in log.iterdir()}
    if names and not (names <= LOG_FILES and "schema.toml" in names):
        odd = min(names - LOG_FILES, default="no schema.toml")
        raise LogError(f"{log}: holds something other than a log ({odd}), not replaced; give another name")


@contextmanager
def new_log_folder(log: Path) -> Iterator[Path]:
    """Yield an empty folder beside `log`; on success it takes the place of `log`, on any exception it is removed."""
    check_target(log)
    log = log.absolute()
    log.parent.mkdir(parents=True, exist_ok=True)
    beside = log.with_name(f".{log.name}.{os.getpid()}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        _replace(log, beside)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _replace(log: Path, new: Path) -> None:
    """Put `new` at `log`; a folder can't be renamed over one that holds files, so an old one steps aside first."""
    check_target(log)
    if not log.exists():
        new.rename(log)
        return
    old = log.with_name(f".{log.name}.{os.getpid()}.old")
    log.rename(old)
    try:
        new.rename(log)
    except OSError:
        old.rename(log)
        raise
    shutil.rmtree(old)
