"""The work folder of a training, beside its RUN: the position to resume from and the best weights so far.

| file | holds |
|---|---|
| `lock` | nothing; locked while a process trains, the kernel frees it however that ends |
| `metrics.jsonl` | lines written so far |
| `position.pt` | weights, optimiser and counters after some step: plain tensors and one JSON text |
| `best-<epoch>.pt` | weights of the best epoch |

Knows nothing of models or datasets.
"""

import fcntl
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from contract.errors import InputError, RunError
from contract.files import atomic_file

FORMAT: Final = 1
_POSITION: Final = "position.pt"
_LOCK: Final = "lock"


class WorkFolder:
    """A locked work folder; `work_folder` makes one."""

    spent = False
    """Set where nothing is worth resuming."""

    def __init__(self, path: Path, *, dropped: Callable[[], object]) -> None:
        self.path = path
        self._dropped = dropped
        self._journal = (path / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)

    @property
    def journal(self) -> Path:
        """The file of metric lines."""
        return self.path / "metrics.jsonl"

    def begin(self) -> None:
        """Start afresh: what an unfinished training left is dropped, and `dropped` is called if it could go on."""
        if (self.path / _POSITION).is_file():
            self._dropped()
        for file in self.path.iterdir():
            if file.name not in {_LOCK, self.journal.name}:
                file.unlink()
        self.rewind(0)

    def write_line(self, line: Mapping[str, object]) -> None:
        """Add a line to `metrics.jsonl`."""
        self._journal.write(json.dumps(line) + "\n")

    def save(
        self, identity: Mapping[str, object], position: Mapping[str, object], state: Mapping[str, Tensor]
    ) -> None:
        """Replace the position in one step.

        Args:
            identity: what a training that goes on from here must share, by name.
            position: counters; JSON.
            state: tensors by name.

        """
        os.fsync(self._journal.fileno())  # after a power cut a position may not count on lines that are lost
        about = {
            "format": FORMAT,
            "identity": identity,
            "position": position,
            "journal_bytes": self._journal.tell(),
        }
        with atomic_file(self.path / _POSITION) as file:
            _save({"about": json.dumps(about), "state": dict(state)}, file)

    def save_best(self, epoch: int, weights: Mapping[str, Tensor]) -> None:
        """Keep the weights of the best epoch so far."""
        with atomic_file(self.best(epoch)) as file:
            _save({name: weight.detach().cpu() for name, weight in weights.items()}, file)

    def forget_others(self, epoch: int) -> None:
        """Remove the weights of epochs that are no longer the best."""
        for path in self.path.glob("best-*.pt"):
            if path != self.best(epoch):
                path.unlink()

    def best(self, epoch: int) -> Path:
        """Return the file of an epoch's weights."""
        return self.path / f"best-{epoch}.pt"

    def rewind(self, journal_bytes: int) -> None:
        """Drop the lines that were written after the position was."""
        self._journal.truncate(journal_bytes)
        self._journal.seek(0, os.SEEK_END)  # else `tell` stays where the dropped lines ended

    def close(self) -> None:
        """Close the files."""
        self._journal.close()


def work_path(run: Path) -> Path:
    """Return where the work folder of a run lies."""
    run = run.resolve()
    return run.with_name(f".{run.name}.unfinished")


def has_position(run: Path) -> bool:
    """Tell whether there is something to resume."""
    return (work_path(run) / _POSITION).is_file()


def read_position(run: Path, identity: Mapping[str, object]) -> tuple[dict[str, Any], int, dict[str, Tensor]]:
    """Return counters, bytes of `metrics.jsonl` and tensors of an unfinished training.

    Raises:
        InputError: its `identity` is another; names the first difference.
        RunError: it is damaged.

    """
    path = work_path(run) / _POSITION
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        about, state = json.loads(content["about"]), content["state"]
        if about["format"] != FORMAT:
            raise RunError(f"{path}: of another format; train again without --resume")
    except (
        OSError,
        EOFError,
        RuntimeError,
        pickle.UnpicklingError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        raise RunError(f"{path}: damaged, nothing to resume; train again without --resume") from error
    for name, wanted in _flat(identity).items():
        found = _flat(about["identity"]).get(name)
        if found != wanted:
            raise InputError(
                f"--resume: {name} was {found} when the training of {run} began and is {wanted} now; "
                "give what was given then, or train again without --resume"
            )
    return about["position"], about["journal_bytes"], state


@contextmanager
def work_folder(run: Path, *, dropped: Callable[[], object]) -> Iterator[WorkFolder]:
    """Yield the locked work folder of a run, as it was left: `rewind` goes on with it, `begin` starts afresh.

    It is removed afterwards, except where an error left something to resume.

    Args:
        run: the run.
        dropped: called where `begin` drops what could have been resumed.

    Raises:
        InputError: another process is training this run.

    """
    path = work_path(run)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = _locked(path, run)
    except OSError as error:
        raise InputError(f"{run} can't be written: {error.strerror}; give another place") from error
    for file in path.glob(".*.tmp"):  # of a process that died while it wrote
        file.unlink()
    work = WorkFolder(path, dropped=dropped)
    keep = False
    try:
        yield work
    except BaseException:
        keep = has_position(run) and not work.spent
        raise
    finally:
        with suppress(OSError):  # on a full disk the last line can't be written here either
            work.close()
        if not keep:
            shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _locked(path: Path, run: Path) -> int:
    descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise InputError(
            f"{run}: another process is training it; wait for it, or give another name"
        ) from error
    return descriptor


def _save(content: object, path: Path) -> None:
    """Write with torch, whose own writer says RuntimeError where the disk is full."""
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise OSError(None, str(error).splitlines()[0], str(path)) from error


def _flat(values: Mapping[str, object]) -> dict[str, object]:
    """Return nested names joined by dots, in the types JSON gives back."""
    flat: dict[str, object] = {}
    for name, value in json.loads(json.dumps(values)).items():
        flat |= (
            {f"{name}.{inner}": v for inner, v in _flat(value).items()}
            if isinstance(value, dict)
            else {name: value}
        )
    return flat
