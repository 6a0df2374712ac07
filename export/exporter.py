"""`longsight export`: a run becomes a bundle folder, or nothing."""

import hashlib
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np

from contract.bundle import GRAPH, VOCABULARIES, Bundle, verify_encoding
from contract.errors import InputError
from contract.files import atomic_folder, sha256_file
from contract.golden import FOLDER, GoldenRequest, write_golden
from contract.manifest import MANIFEST, Calibration, FittedTransform, Manifest, ModelSpec
from export.distilling import diffusion_of, distill
from export.explain import explain
from export.golden_requests import golden_requests
from export.graph import OUTPUTS, ServedModel, graph_inputs, write_graph
from export.parity import FP32_TOLERANCE, Parity, check_parity, routing_gaps, torch_logits
from export.precision import PRECISIONS, Precision
from export.reduction import Reduction, reduce
from export.verify import Session
from training.distill import teacher_of
from training.run import Run

Progress = Callable[[int, int | None, str], None]
Say = Callable[[str], object]

_OWN: Final = (FOLDER, VOCABULARIES)
DIFFUSIONS: Final = ("unrolled", "distilled")
_STEPS: Final = 5
_PACKAGES: Final = ("onnx", "onnxruntime", "torch")


def export(
    run: Path,
    bundle: Path,
    *,
    precision: str = "fp32",
    diffusion: str = "unrolled",
    seed: int = 0,
    progress: Progress | None = None,
    say: Say | None = None,
    now: datetime | None = None,
) -> dict[str, Any]:
    """Write the bundle of a run; returns its name, version and how closely the graph follows the model.

    Args:
        run: a run folder; the dataset it was trained on must still be where it was.
        bundle: the folder to write; an older bundle there is replaced whole once the new one is proven.
        precision: of the tables that the graph reads by row; fp16 and int8 stand behind a gate (`export.reduction`).
        diffusion: what generates the interests of a model that does: its sampler's steps, unrolled, or the one step of
            a student. The student is the one that `run` keeps, or is distilled now and kept there.
        seed: of the student, if one is distilled.
        progress: called with (done, total, label).
        say: called with a line that a user should read.
        now: the time in the version; by default the clock's.

    Raises:
        InputError: no such precision, a student for a model that generates no interests, or `bundle` is a folder that
            is no bundle.
        RunError, DatasetError: the run or its dataset is missing or damaged.
        LongsightError: onnxruntime and torch disagree on a golden request, or the gate refuses the precision; nothing
            is left behind.

    """
    started = time.perf_counter()
    report = progress or (lambda _done, _total, _label: None)
    wanted = _precision(precision)
    if diffusion not in DIFFUSIONS:
        raise InputError(f"--diffusion {diffusion}: no such way; there are {', '.join(DIFFUSIONS)}")
    report(0, _STEPS, "opening the run")
    opened = Run.load(run)
    if diffusion == "distilled":
        teacher_of(opened)  # refused before any work
    with atomic_folder(bundle, marker=MANIFEST, own=_OWN) as folder:
        found: dict[str, Any] = {}
        if diffusion == "distilled":
            opened, found = distill(opened, seed=seed, report=report, say=say or (lambda _line: None))
        summary = _fill(folder, opened, wanted, report, now or datetime.now(UTC))
    report(_STEPS, _STEPS, "done")
    return {"bundle": str(bundle), **summary, **found, "seconds": time.perf_counter() - started}


def _precision(text: str) -> Precision:
    for precision in PRECISIONS:
        if precision == text:
            return precision
    raise InputError(f"--precision {text}: no such precision; there are {', '.join(PRECISIONS)}")


def _fill(folder: Path, run: Run, precision: Precision, report: Progress, now: datetime) -> dict[str, Any]:
    """Write and prove a bundle in an empty folder."""
    served = ServedModel(run.model, run.calibration)
    report(1, _STEPS, "golden requests")
    golden = _golden(run, served)
    write_golden(folder / FOLDER, golden)
    _write_vocabularies(run, folder / VOCABULARIES)
    report(2, _STEPS, "tracing the graph")
    write_graph(served, run.schema, folder)
    report(3, _STEPS, "comparing with torch")
    gaps = routing_gaps(served, golden)
    parity = check_parity(Session(folder / GRAPH), golden, tolerance=FP32_TOLERANCE, gaps=gaps)
    weights = explain(served, run.schema, folder, golden, gaps=gaps)
    reduced = None
    if precision != "fp32":
        report(0, None, "reducing the tables")
        reduced = reduce(
            folder,
            run,
            golden,
            specs=graph_inputs(served, run.schema),
            precision=precision,
            hard_routing=gaps is not None,
            report=report,
        )
    report(4, _STEPS, "checksums")
    manifest = _manifest(run, served, folder, now, hard_routing=gaps is not None, reduced=reduced).write(
        folder
    )
    verify_encoding(Bundle.open(folder))
    told = {} if reduced is None else reduced.told()
    return _summary(manifest, parity) | {
        "golden_requests": len(golden),
        "weight_difference": weights,
        **told,
        "bytes": sum((folder / file).stat().st_size for file in (*manifest.files, MANIFEST)),
    }


def _summary(manifest: Manifest, parity: Parity) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "version": manifest.version,
        "precision": manifest.precision,
        "tolerance": manifest.tolerance,
        "torch_difference": parity.alone,
        "batch_difference": parity.together,
        "batch_difference_p99": parity.together_p99,
        "turned_picks": parity.turned_picks,
    }


def _golden(run: Run, served: ServedModel) -> list[GoldenRequest]:
    golden = []
    for about, raw in golden_requests(run.dataset(), run.encoder):
        tensors = raw.encode(run.encoder, history_lag_s=run.history_lag_s)
        golden.append(GoldenRequest(about, raw, tensors, torch_logits(served, tensors)))
    return golden


def _write_vocabularies(run: Run, folder: Path) -> None:
    folder.mkdir()
    for name, vocabulary in run.encoder.vocabularies.items():
        np.save(folder / f"{name}.npy", vocabulary.known)
        names = run.path / "vocabularies" / f"{name}.names"
        if names.is_file():
            shutil.copyfile(names, folder / names.name)


def _manifest(
    run: Run,
    served: ServedModel,
    folder: Path,
    now: datetime,
    *,
    hard_routing: bool,
    reduced: Reduction | None,
) -> Manifest:
    files = {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    transforms = {name: FittedTransform.of(transform) for name, transform in run.encoder.transforms.items()}
    return Manifest(
        name=run.model_name,
        version=f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{_content_hash(run, files)}",
        precision="fp32" if reduced is None else reduced.precision,
        model=ModelSpec(name=run.model_name, config=run.config),
        diffusion=diffusion_of(run.model),
        history_length=run.history_length,
        history_lag_s=run.history_lag_s,
        inputs=graph_inputs(served, run.schema),
        outputs=OUTPUTS,
        tolerance=FP32_TOLERANCE if reduced is None else reduced.tolerance,
        hard_routing=hard_routing,
        farthest=None if reduced is None else reduced.farthest,
        calibration=Calibration(a=run.calibration.a, b=run.calibration.b),
        sampling=run.sampling,
        transforms=transforms,
        metrics=run.metrics if reduced is None else run.metrics | {"reduction": reduced.report},
        provenance=run.provenance | {"export": _versions()},
        fingerprint=run.schema.fingerprint(),
        log_schema=run.schema.to_json(),
        files=files,
    )


def _content_hash(run: Run, files: dict[str, str]) -> str:
    """Return six hex digits that differ between bundles of different content."""
    text = "".join(f"{name}={digest};" for name, digest in files.items()) + run.schema.fingerprint()
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in _PACKAGES}
