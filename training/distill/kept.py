"""RUN/student: a student that was distilled once, for the next export.

| file | holds |
|---|---|
| `student.json` | digest of its teacher, seed, calibration, metrics, report, provenance; written last |
| `student.pt` | its weights, a state dict of plain tensors |
"""

import hashlib
import json
import pickle
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch

from contract.errors import LongsightError
from contract.files import atomic_folder, sha256_file, write_json_atomic
from training.calibration import Calibration
from training.models.diffumin.config import DiffuminConfig
from training.models.diffumin.student import Student
from training.run import STUDENT, Run

FORMAT: Final = 1
MARKER: Final = "student.json"
_WEIGHTS: Final = "student.pt"


@dataclass(frozen=True)
class Kept:
    """A student and what is known of it."""

    student: Student
    """In eval mode."""
    calibration: Calibration
    """Its own: what the teacher's scores needed need not fit."""
    metrics: dict[str, Any]
    """On validation, calibrated."""
    report: dict[str, Any]
    """See `training.verdict`."""
    seed: int
    seconds: float
    provenance: dict[str, Any]


class UnfitError(Exception):
    """What is kept is not this teacher's student; the text says why."""


def read_kept(run: Run, config: DiffuminConfig, *, seed: int | None = None) -> Kept | None:
    """Return the student kept in a run folder; None if there is none.

    Raises:
        UnfitError: it is damaged, of another teacher, or was drawn from another seed than `seed`.

    """
    folder = run.path / STUDENT
    if not folder.exists():
        return None
    try:
        record = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise UnfitError("is of another format")
        if record["teacher"] != teacher_digest(run):
            raise UnfitError("learned from other weights than the run has now")
        if seed is not None and record["seed"] != seed:
            raise UnfitError(f"was drawn from seed {record['seed']}")
        if sha256_file(folder / _WEIGHTS) != record["weights"]:
            raise UnfitError("is damaged")
        student = Student(config)
        student.load_state_dict(torch.load(folder / _WEIGHTS, weights_only=True, map_location="cpu"))
        return Kept(
            student.eval(),
            Calibration(**record["calibration"]),
            **{name: record[name] for name in ("metrics", "report", "seed", "seconds", "provenance")},
        )
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        EOFError,
        RuntimeError,  # RecursionError too
        pickle.UnpicklingError,
    ) as error:
        raise UnfitError("is damaged") from error


def keep(run: Run, kept: Kept) -> None:
    """Put a student into its teacher's run folder, in place of an older one.

    Raises:
        LongsightError: it can't be written there.

    """
    folder = run.path / STUDENT
    try:
        with atomic_folder(folder, marker=MARKER) as temporary:
            with (temporary / _WEIGHTS).open("wb") as file:
                torch.save(kept.student.state_dict(), file)
            record = {"format": FORMAT, "teacher": teacher_digest(run)}
            record |= {"weights": sha256_file(temporary / _WEIGHTS)}
            record |= {"calibration": asdict(kept.calibration)}
            record |= {
                name: getattr(kept, name) for name in ("seed", "metrics", "report", "seconds", "provenance")
            }
            write_json_atomic(temporary / MARKER, record)
    except (OSError, RuntimeError) as error:  # torch says RuntimeError where the disk is full
        raise LongsightError(f"{folder} can't be written: {error}") from error


def teacher_digest(run: Run) -> str:
    """Return a digest of what a student depends on: weights, configuration and data of its teacher."""
    about = {
        "weights": sha256_file(run.path / "checkpoint.pt"),
        "config": run.config,
        "history_length": run.history_length,
        "dataset": run.provenance["dataset_fingerprint"],
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
