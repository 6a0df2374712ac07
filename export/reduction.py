"""`export --precision fp16` and `int8`: the tables of a proven graph in fewer bytes, and the gate they stand behind.

The fp32 graph was held to torch; the reduced one is held to it: on the golden requests, which give its tolerance, and
on every impression of the test split, where neither its ranking nor its calibration may get worse by more than little.

U requests, N candidates.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contract.bundle import EXPLAINED, GRAPH
from contract.closeness import Closeness
from contract.errors import LongsightError
from contract.golden import GoldenRequest, score_differences
from contract.manifest import TensorSpec
from export.explain import OUTPUT
from export.explained_parity import WEIGHT
from export.graph import OUTPUTS, check_graph
from export.parity import FP32_TOLERANCE, company_differences
from export.precision import DATA, Precision, write_reduced
from export.verify import LOGIT, Session
from training.batches import Batch, BatchSource
from training.run import Run
from training.scoring import Progress, score_batches
from training.verdict import WORST_GAUC, judge, judged_split

WORST_PCOC: Final = 0.01
"""PCOC may move by this much, up or down."""
_REQUESTS: Final = 8  # of a batch; more in one run are no faster on a CPU
_PLAIN: Final = "fp32"


@dataclass(frozen=True)
class Reduction:
    """What became of a graph."""

    precision: Precision
    tolerance: float
    """Twice the largest difference in log-odds from fp32 on the golden requests, at least that of fp32."""
    alone: float
    """That largest difference."""
    farthest: float
    """The largest difference of any impression that the gate judged, with room for what fp32 may differ from torch."""
    weights: float | None
    """The largest difference of a weight of `explain.onnx`; None: there are no weights."""
    report: dict[str, Any]
    """The tables, how many bytes they took and take, and the gate's figures: see `training.verdict`."""

    def told(self) -> dict[str, Any]:
        """Return what an export tells of it."""
        return {
            "fp32_difference": self.alone,
            "fp32_weight_difference": self.weights,
            "reduction": self.report,
        }


def reduce(
    folder: Path,
    run: Run,
    golden: Sequence[GoldenRequest],
    *,
    specs: tuple[TensorSpec, ...],
    precision: Precision,
    hard_routing: bool,
    report: Progress,
) -> Reduction:
    """Put reduced graphs in the place of the finished ones in a folder, and prove them.

    Args:
        folder: holds `model.onnx`, its weights, and maybe `explain.onnx`.
        run: what they were made from; with its dataset.
        golden: requests with the scores of fp32.
        specs: inputs of the graphs.
        precision: fp16 or int8.
        hard_routing: the model picks.
        report: called with (done, total, label).

    Raises:
        InputError: the graph has nothing to reduce.
        LongsightError: the reduced graph breaks a promise of the bundle, or the gate refuses it.

    """
    plain = _set_aside(folder)
    tables = write_reduced(plain, folder, precision=precision)
    check_graph(folder / GRAPH, specs, OUTPUTS, history_length=run.history_length)
    first, other = Session(plain / GRAPH), Session(folder / GRAPH)
    alone = float(max(score_differences(other.logits, request).max(initial=0.0) for request in golden))
    closeness = Closeness(FP32_TOLERANCE, hard_routing=hard_routing)
    _check_company(other, golden, closeness)
    weights = None
    if (folder / EXPLAINED).exists():
        check_graph(folder / EXPLAINED, specs, (*OUTPUTS, OUTPUT), history_length=run.history_length)
        explained = Session(plain / EXPLAINED), Session(folder / EXPLAINED)
        weights = _check_explained(other, *explained, golden, closeness)
    found = _judged(run, first, other, precision=precision, report=report)
    del first, other  # their weights are mapped from the files
    shutil.rmtree(plain)
    require_quality(found, precision)
    return Reduction(
        precision,
        tolerance=max(FP32_TOLERANCE, 2 * alone),
        alone=alone,
        farthest=found["log_odds_difference"]["max"] + FP32_TOLERANCE,
        weights=weights,
        report={**asdict(tables), **found},
    )


def _set_aside(folder: Path) -> Path:
    """Move the finished graphs into a folder of their own; returns it."""
    plain = folder / _PLAIN
    plain.mkdir()
    for name in (GRAPH, DATA, EXPLAINED):
        if (folder / name).exists():
            (folder / name).rename(plain / name)
    return plain


def require_quality(found: dict[str, Any], precision: str) -> None:
    """Hold the figures of `training.verdict.judge` to what a smaller bundle may cost.

    Raises:
        LongsightError: GAUC may be lower by more than `WORST_GAUC`, or PCOC moves by more than `WORST_PCOC`.

    """
    place = f"--precision {precision}: on the {found['split']} split"
    remedy = "nothing was written; export with --precision fp32"
    low, high = found["gauc_low"], found["gauc_high"]
    if low is None:
        raise LongsightError(
            f"{place} ({found['rows']} impressions of {found['users']} users) GAUC has no interval, so that nothing "
            f"tells whether it gets worse; {remedy}"
        )
    if not found["close"]:
        raise LongsightError(
            f"{place} GAUC changes by {found['gauc_difference']:+.4f}, 95 % interval [{low:+.4f}, {high:+.4f}], "
            f"which is not above {WORST_GAUC:+.3f}; {remedy}"
        )
    moved = found["pcoc_difference"]
    if moved is None or not abs(moved) <= WORST_PCOC:
        said = "is not defined" if moved is None else f"moves by {moved:+.4f}, more than {WORST_PCOC:g}"
        raise LongsightError(f"{place} PCOC {said}; {remedy}")


def _judged(
    run: Run, first: Session, other: Session, *, precision: Precision, report: Progress
) -> dict[str, Any]:
    """Return how scores of one graph compare with those of the other, on all impressions of a split."""
    dataset = run.dataset()
    split = judged_split(dataset)
    chosen = dataset.requests_of(split)
    source = BatchSource(dataset, run.encoder, run.model.inputs)

    def scored(session: Session, label: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        def score(batch: Batch) -> NDArray[np.float32]:
            return session.logits(batch.tensors)

        return score_batches(
            score, source, chosen, requests=_REQUESTS, progress=report, label=f"scoring in {label}"
        )

    row, before = scored(first, _PLAIN)
    _, after = scored(other, precision)
    return {"split": split, **judge(dataset, row, first=before, other=after, names=(_PLAIN, precision))}


def _check_company(session: Session, golden: Sequence[GoldenRequest], closeness: Closeness) -> None:
    """Hold batches to the same requests alone."""
    differences = np.concatenate(company_differences(session, golden))
    if not closeness.holds(differences):
        raise LongsightError(
            f"golden requests: scores of the reduced graph in a batch and alone differ by {differences.max():.3g} in "
            f"log-odds, more than {closeness}; nothing was written; export with --precision fp32"
        )


def _check_explained(
    plain: Session,
    before: Session,
    explained: Session,
    golden: Sequence[GoldenRequest],
    closeness: Closeness,
) -> float:
    """Hold the reduced `explain.onnx` to the reduced `model.onnx`; return how far its weights are from before."""
    largest = 0.0
    apart = []
    for request in golden:
        found = explained.run(request.tensors)
        apart.append(np.abs(found[LOGIT] - plain.logits(request.tensors))[0])
        moved = np.abs(found[WEIGHT] - before.run(request.tensors)[WEIGHT])
        largest = max(largest, float(moved.max(initial=0.0)))
    differences = np.concatenate(apart)
    if not (closeness.holds(differences) and np.isfinite(largest)):
        raise LongsightError(
            f"golden requests: log-odds of the reduced explain.onnx and model.onnx differ by {differences.max():.3g}; "
            "nothing was written; export with --precision fp32"
        )
    return largest
