"""Folders and files that are either whole under their name or not there: written beside, then renamed.

Knows nothing of what it writes. A writer works in a hidden sibling (`.<name>.<token>.tmp`) on which it holds
a file lock; the kernel drops the lock when the process dies, however it dies, so the next writer of the same
name can tell an abandoned sibling from one in use and removes it.
"""

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from contract.errors import InputError

READ_BYTES: Final = 1 << 20
AT_FDCWD: Final = -100
RENAME_EXCHANGE: Final = 2


@contextmanager
def atomic_folder(
    target: Path, *, marker: str | None, own: Collection[str] = (), flush: bool = True
) -> Iterator[Path]:
    """Yield an empty folder beside `target`; on success it becomes `target`, else it is removed.

    An existing `target` is replaced whole if it is empty or holds a file called `marker` and no folders but
    `own`; with `marker` None only an empty folder is replaced. Checked before the work starts and again before
    the rename. Without `flush` its files may be lost, or be found torn, if the machine itself stops within the
    next minute.

    Raises:
        InputError: `target` is a file, a folder that this kind of writer did not make, or where none can be.

    """
    target = target.resolve()
    refuse_foreign(target, marker, own)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target)
        temporary, lock = _claimed_sibling(target)
    except OSError as error:
        raise InputError(f"{target} can't be written: {_reason(error)}; give another place") from error
    try:
        yield temporary
        if flush:
            _flush(temporary)
        refuse_foreign(target, marker, own)
        _move_into_place(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


@contextmanager
def claimed_folder(path: Path) -> Iterator[bool]:
    """Make a folder, or take over one that a dead process left, and hold its lock.

    Yields whether the folder is ours; False: a living process holds it.

    Raises:
        InputError: no folder can be there.

    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = None
        while lock is None or not _is_at(lock, path):  # its holder may have removed it while we came
            if lock is not None:
                os.close(lock)
            path.mkdir(exist_ok=True)
            lock = _locked(path)
            if lock is None and path.is_dir():
                break
    except OSError as error:
        raise InputError(f"{path} can't be written: {_reason(error)}; give another place") from error
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield the path of a file beside `target`; on success it replaces `target`, else it is removed.

    Raises:
        InputError: `target` is a folder, or where no file can be.

    """
    target = target.resolve()
    if target.is_dir():
        raise InputError(f"{target} is a folder; give the name of a file to write")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise InputError(f"{target} can't be written: {_reason(error)}; give another place") from error
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(target)
        _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json_atomic(target: Path, value: object) -> None:
    """Write `value` as indented JSON (UTF-8, no NaN), replacing `target` in one step."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_file(target) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, as 64 lowercase hex digits; reads in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def refuse_foreign(target: Path, marker: str | None, own: Collection[str] = ()) -> None:
    """Refuse to replace what is no folder of this kind (see `atomic_folder`): for asking before long work.

    Raises:
        InputError: `target` is a file, or a folder with content but without a file called `marker`, or with a
            folder in it that is none of its `own`: a dataset kept inside its log, raw files beside theirs.

    """
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"{target} is a file; give the name of a folder to write")
    if any(target.iterdir()) and not (marker is not None and (target / marker).is_file()):
        reason = "is not empty" if marker is None else f"is not empty and holds no {marker}"
        raise InputError(f"{target} {reason}: not replaced; give another name, or remove it first")
    for inner in sorted(target.iterdir()):
        if inner.is_dir() and inner.name not in own:
            raise InputError(
                f"{target} holds the folder {inner.name}, which would be lost with it: not replaced; "
                "give another name, or move that folder elsewhere first"
            )


def _remove_abandoned(target: Path) -> None:
    """Remove the siblings whose writers are dead: their locks are free."""
    for sibling in target.parent.glob(f".{_escaped(target.name)}.*.tmp"):
        lock = _locked(sibling) if sibling.is_dir() else None
        if lock is not None:
            shutil.rmtree(sibling, ignore_errors=True)
            os.close(lock)


def _claimed_sibling(target: Path) -> tuple[Path, int]:
    while True:
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
        temporary.mkdir()
        lock = _locked(temporary)
        # Another writer may have taken it for abandoned between the two lines above: then start afresh.
        if lock is not None and temporary.is_dir():
            return temporary, lock
        if lock is not None:
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """Return a descriptor that holds the folder's lock, or None if another process holds it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether the open folder is the one that bears the name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _move_into_place(temporary: Path, target: Path) -> None:
    """Rename; an older folder changes places with the new one in one step and is removed by the caller."""
    if target.exists() and any(target.iterdir()):
        if not _exchange(temporary, target):
            # No atomic exchange: for a moment nothing bears the name, a kill then leaves the old one aside.
            aside = target.with_name(f".{target.name}.{secrets.token_hex(6)}.old")
            target.rename(aside)
            temporary.rename(target)
            shutil.rmtree(aside, ignore_errors=True)
    else:
        temporary.rename(target)
    _sync(target.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders atomically (Linux `renameat2`); False where system or file system can't."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    result: int = rename(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE)
    code = ctypes.get_errno()
    if result and code not in {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}:
        raise OSError(code, os.strerror(code), str(second))
    return result == 0


def _flush(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: OSError) -> str | None:
    """Return why, in words of what was asked for: a file stands where the folder around it should be."""
    return "a folder above it is a file" if isinstance(error, FileExistsError) else error.strerror


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
