"""A small run of DiffuMIN with a sampler to distill: two steps, so that its unrolled graph is traced quickly."""

import shutil
import tempfile
from functools import cache
from pathlib import Path

from tests.support.tiny import HISTORY_LENGTH, tiny_dataset

STEPS = 2


def tiny_teacher(tmp_path: Path) -> Path:
    """Return the folder of a run trained for two epochs, L = 12; `tmp_path/teacher`."""
    shutil.copytree(_made(), tmp_path / "teacher")
    return tmp_path / "teacher"


@cache
def _home() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="longsight-teacher-")


@cache
def _made() -> Path:
    from training.train import train

    home = Path(_home().name)
    settings = {"history_length": HISTORY_LENGTH, "epochs": 2, "diffusion": True, "diffusion_steps": STEPS}
    train(tiny_dataset(home), home / "run", model="diffumin", settings=settings, seed=3)
    return home / "run"
