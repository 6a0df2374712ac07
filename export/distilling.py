"""`export --diffusion distilled`: the run with a student in its sampler's place, and what that costs and brings.

U requests, L behaviours, N candidates.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from contract.bundle import GRAPH
from contract.encoder import Tensors
from contract.manifest import DiffusionSpec
from export.golden_requests import golden_requests
from export.graph import ServedModel, write_graph
from export.verify import Session
from training.distill import distilled
from training.models import CtrModel
from training.models.diffumin import Diffumin
from training.models.diffumin.student import Student
from training.run import Run
from training.scoring import Progress
from training.verdict import WORST_GAUC

ROUNDS: Final = 30
_WARM_UP: Final = 3


def distill(
    run: Run, *, seed: int, report: Progress, say: Callable[[str], object]
) -> tuple[Run, dict[str, Any]]:
    """Return the distilled form of a run, and what an export tells of it.

    A student whose ranking may be worse than its teacher's by more than is tolerated is told of in one line.
    """

    def measure(teacher: Run, student: Run) -> dict[str, Any]:
        report(0, None, "timing both graphs")
        return {"latency": latency(teacher, student)}

    found = distilled(run, seed=seed, measure=measure, progress=report, say=say)
    if not found.report["close"]:
        low = found.report["gauc_low"]
        said = "has no interval" if low is None else f"may be {low:+.4f}"
        say(
            f"{run.path}: the student's GAUC against its teacher's {said}, where {WORST_GAUC:+.3f} is the limit; "
            "compare before you serve it, or export --diffusion unrolled"
        )
    return found.run, {"distillation": {**found.report, "reused": found.reused}}


def diffusion_of(model: CtrModel) -> DiffusionSpec | None:
    """Return how a model generates interests; None if it generates none."""
    if not isinstance(model, Diffumin) or model.diffusion is None:
        return None
    if isinstance(model.diffusion, Student):
        return DiffusionSpec(kind="distilled", steps=1)
    return DiffusionSpec(kind="unrolled", steps=model.config.diffusion_steps)


def latency(teacher: Run, student: Run) -> dict[str, Any]:
    """Return the p50 in ms of one `session.run` of both graphs, turn by turn on one thread.

    The request is one of a full history and many candidates, of the golden ones.
    """
    tensors = typical_request(teacher)
    with tempfile.TemporaryDirectory(prefix="longsight-latency-") as name:
        sessions = {}
        for label, run in (("teacher", teacher), ("student", student)):
            folder = Path(name) / label
            folder.mkdir()
            write_graph(ServedModel(run.model, run.calibration), run.schema, folder)
            sessions[label] = Session(folder / GRAPH)
        took: dict[str, list[float]] = {label: [] for label in sessions}
        for _ in range(_WARM_UP + ROUNDS):
            for label, session in sessions.items():
                started = time.perf_counter()
                session.logits(tensors)
                took[label].append(1000 * (time.perf_counter() - started))
    ms = {label: float(np.median(values[_WARM_UP:])) for label, values in took.items()}
    return {
        "behaviors": tensors["history_mask"].shape[1],
        "candidates": next(t.shape[1] for n, t in tensors.items() if n.startswith("ad_")),
        "teacher_p50_ms": ms["teacher"],
        "student_p50_ms": ms["student"],
        "ratio": ms["student"] / ms["teacher"],
    }


def typical_request(run: Run) -> Tensors:
    """Return an encoded request with L behaviours and a hundred candidates."""
    raw = dict(golden_requests(run.dataset(), run.encoder))
    full, many = (
        raw[about].encode(run.encoder, history_lag_s=run.history_lag_s)
        for about in ("L events", "many candidates")
    )
    return {name: (full if name.startswith("history_") else many)[name] for name in run.model.inputs}
