"""Where a run comes from: versions, git revision, time."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "numpy", "polars")


def provenance(
    *,
    seed: int,
    dataset_fingerprint: str,
    device: str = "cpu",
    processes: int = 1,
    init_from: Path | None = None,
    now: datetime | None = None,
) -> dict[str, Any]:
    """Return seed, data fingerprint, git revision (None outside a checkout), versions and time of a run."""
    return {
        "seed": seed,
        "dataset_fingerprint": dataset_fingerprint,
        "device": device,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "init_from": None if init_from is None else str(init_from.resolve()),
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "longsight": _own_version(),
        "created": (now or datetime.now(UTC)).isoformat(timespec="seconds"),
    }


def _own_version() -> str | None:
    try:
        return metadata.version("longsight")
    except metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    here = Path(__file__).resolve()
    git = ["git", "-C", str(here.parent)]
    try:
        # installed below somebody else's checkout, this file is none of it
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], capture_output=True, check=True)
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        return head.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
