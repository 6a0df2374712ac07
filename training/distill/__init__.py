"""A one-step student takes the sampler's place: distilled from the frozen teacher, judged, kept in the run folder."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from contract.errors import LongsightError, RunError
from training.batches import BatchSource
from training.dataset import Dataset
from training.distill.fit import fit_student, relative_error
from training.distill.kept import Kept, UnfitError, keep, read_kept
from training.distill.teacher import lessons, teacher_of, with_sampler
from training.finish import calibrate
from training.models.diffumin import Diffumin
from training.provenance import provenance
from training.run import STUDENT, Run
from training.scoring import Progress, score_requests
from training.verdict import judge, judged_split

__all__ = ["Distilled", "distilled", "kept_student", "teacher_of"]

Measure = Callable[[Run, Run], dict[str, Any]]
Say = Callable[[str], object]


@dataclass(frozen=True)
class Distilled:
    """A run in its distilled form."""

    run: Run
    """As it was, but its model generates with the student, and calibration and metrics are those of that model."""
    report: dict[str, Any]
    """See `training.verdict`; and what `measure` added."""
    reused: bool
    """Whether the student was kept from an earlier time."""


def distilled(
    run: Run,
    *,
    seed: int = 0,
    measure: Measure | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Distilled:
    """Return the distilled form of a run, with the student that is kept in its folder or else with a new one.

    A new one is kept for the next time; where the folder can't be written, it is used all the same.

    Args:
        run: of DiffuMIN with diffusion; its dataset must still be where it was.
        seed: of the requests that it learns from, its first weights and their order.
        measure: given the run and its distilled form, returns what else belongs into the report.
        progress: called with (done, total, label).
        say: called with a line that a user should read.

    Raises:
        InputError: the run generates no interests.
        RunError, DatasetError: its dataset is gone or has changed.

    """
    teacher = teacher_of(run)
    report, say = progress or _silent, say or _mute
    try:
        kept = read_kept(run, teacher.config, seed=seed)
    except UnfitError as reason:
        say(f"{run.path / STUDENT} {reason}: distilling anew")
        kept = None
    if kept is not None:
        return Distilled(_with_student(run, teacher, kept), kept.report, reused=True)
    kept = _distill(run, teacher, seed=seed, measure=measure, report=report)
    try:
        keep(run, kept)
    except LongsightError as error:
        say(f"{error}; the next export of this run distills again")
    return Distilled(_with_student(run, teacher, kept), kept.report, reused=False)


def kept_student(run: Run) -> Run:
    """Return the distilled form of a run, with the student that is kept in its folder.

    Raises:
        InputError: the run generates no interests.
        RunError: no student is kept there, or not one of this teacher.

    """
    teacher = teacher_of(run)
    remedy = f"run `longsight export {run.path} BUNDLE --diffusion distilled` first"
    try:
        kept = read_kept(run, teacher.config)
    except UnfitError as reason:
        raise RunError(f"{run.path / STUDENT} {reason}; {remedy}") from reason
    if kept is None:
        raise RunError(f"{run.path / STUDENT}: no such folder; {remedy}")
    return _with_student(run, teacher, kept)


def _distill(run: Run, teacher: Diffumin, *, seed: int, measure: Measure | None, report: Progress) -> Kept:
    started = time.perf_counter()
    dataset = run.dataset()
    source = BatchSource(dataset, run.encoder, run.model.inputs)
    taught = lessons(
        teacher, source, dataset.requests_of("train"), seed=seed, report=report, label="the teacher at work"
    )
    student = fit_student(teacher.config, taught, seed=seed, report=report)
    about = {"pairs": len(taught), "relative_error": relative_error(student, taught)}
    del taught
    calibration, metrics = calibrate(
        with_sampler(teacher, student),
        source,
        dataset,
        half_life_days=float(run.record["settings"]["calibration_half_life_days"]),
        report=report,
    )
    origin = provenance(seed=seed, dataset_fingerprint=dataset.fingerprint)
    kept = Kept(student, calibration, {"validation": metrics}, {}, seed, 0.0, origin)
    twin = _with_student(run, teacher, kept)
    found = {**about, **_judged(run, twin, dataset, source, report=report)}
    if measure is not None:
        found |= measure(run, twin)
    return replace(kept, report=found, seconds=time.perf_counter() - started)


def _judged(
    run: Run, twin: Run, dataset: Dataset, source: BatchSource, *, report: Progress
) -> dict[str, Any]:
    split = judged_split(dataset)
    chosen = dataset.requests_of(split)
    logits = []
    for each, label in ((twin, "scoring with the student"), (run, "scoring with the teacher")):
        row, raw = score_requests(each.model, source, chosen, progress=report, label=label)
        logits.append(each.calibration.apply(raw))
    report_of = judge(dataset, row, first=logits[1], other=logits[0], names=("teacher", "student"))
    return {"split": split, **report_of}


def _with_student(run: Run, teacher: Diffumin, kept: Kept) -> Run:
    origin = {name: kept.provenance[name] for name in ("seed", "git_revision", "created")}
    record = {
        **run.record,
        "calibration": asdict(kept.calibration),
        "metrics": {**kept.metrics, "distillation": kept.report},
        "provenance": {**run.provenance, "student": origin},
    }
    return replace(run, record=record, model=with_sampler(teacher, kept.student).eval())


def _silent(_done: int, _total: int | None, _label: str) -> None:
    """Report nothing."""


def _mute(_line: str) -> None:
    """Say nothing."""
