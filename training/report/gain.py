"""The section on what the run gains over baselines, by history length."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from contract.errors import InputError
from training.batches import BatchSource
from training.bootstrap import Difference, metric_differences
from training.calibration import Calibration, fit_calibration
from training.compare import check_comparable
from training.dataset import Dataset
from training.models import build_model
from training.models.popularity import Popularity
from training.report.case import Case
from training.report.chart import Axis, Series, line_chart
from training.report.page import (
    Block,
    Chart,
    Charts,
    Column,
    Remark,
    Section,
    Table,
    count,
    number,
    signed,
    span,
)
from training.run import MARKER, Run, feature_spec
from training.scored import ScoredSplit, score_split
from training.scoring import score_requests
from training.weights import recency, row_weights

MOST_BASELINES: Final = 4
ALL: Final = "all"
POPULARITY: Final = "popularity (counted here)"


@dataclass(frozen=True)
class Gain:
    """What the run gains over one baseline: of all rows, and of every range of history lengths."""

    name: str
    by_length: dict[str, tuple[int, int, dict[str, Difference]]]
    """Rows, users and differences of every metric (run - baseline), by range; `ALL` first."""


def gains_of(case: Case) -> list[Gain]:
    """Score the baselines on the rows of the judged split.

    Raises:
        RunError: a baseline that was asked for can't be used, or was trained on other data.

    """
    if case.judged is None:
        return []
    found = []
    popularity = _popularity(case)
    if popularity is not None:
        found.append(_gain(case, POPULARITY, popularity))
    for path in case.baselines or siblings(case.run, case.dataset):
        other = Run.load(path)
        check_comparable(case.run, other)
        scored = score_split(other, case.dataset, case.chosen[case.judged], progress=case.progress)
        name = path.resolve().name
        found.append(_gain(case, f"{name} ({other.model_name}, L = {other.history_length})", scored))
    return found


def siblings(run: Run, dataset: Dataset) -> list[Path]:
    """Return runs on the same data beside a run: the newest of each model, mean_pool first."""
    newest: dict[str, tuple[str, Path]] = {}
    here = run.path.resolve()
    for marker in sorted(here.parent.glob(f"*/{MARKER}")):
        try:
            record = json.loads(marker.read_text(encoding="utf-8"))
            model, origin = record["model"], record["provenance"]
            Run.load(marker.parent)  # a damaged neighbour is no baseline, and no reason to have no report
            same = origin["dataset_fingerprint"] == dataset.fingerprint
            created = str(origin["created"])
        except (InputError, OSError, ValueError, KeyError, TypeError):
            continue
        if same and model != "popularity" and marker.parent.resolve() != here:
            newest[model] = max(newest.get(model, ("", marker.parent)), (created, marker.parent))
    ordered = sorted(newest.items(), key=lambda each: (each[0] != "mean_pool", each[0]))
    return [path for _, (_, path) in ordered[:MOST_BASELINES]]


def gain_section(case: Case, gains: Sequence[Gain]) -> Section:
    """Return the gains as charts and tables."""
    reading = (
        "What the run is better by than a simpler one, on the same rows and for users with ever more events before the "
        "request. An interval that stays above 0 (log loss: below 0) is a gain that other users would show too."
    )
    if not gains:
        return Section(
            "gain", "Gain over baselines", reading, [Remark("There is no baseline to compare with.")]
        )
    charts = [Chart(_chart(each), f"GAUC of this run less that of {each.name}") for each in gains]
    blocks: list[Block] = [Charts(charts), *(_table(each) for each in gains)]
    if [each.name for each in gains] == [POPULARITY]:
        blocks.append(
            Remark(
                "Only popularity was found. Train mean_pool on the same dataset beside this run, or give "
                "--baseline RUN, to see what reading histories by candidate adds."
            )
        )
    return Section("gain", "Gain over baselines", f"{reading} Rows of the {case.judged} split.", blocks)


def _popularity(case: Case) -> ScoredSplit | None:
    """Count clicks per ad in training and score by them; None where no ad field tells ads apart, or the run is that."""
    encoder, dataset = case.run.encoder, case.dataset
    if case.run.model_name == "popularity":
        return None
    try:
        model = build_model("popularity", feature_spec(encoder), {}, history_length=1)
    except InputError:
        return None
    assert isinstance(model, Popularity)
    source = BatchSource(dataset, encoder, model.inputs)
    rows = dataset.rows_of(np.flatnonzero(dataset.requests["split"] == 0))
    clicked = np.asarray(dataset.row("clicked"))
    model.fit_counts(source.ad_rows(model.inputs[0], rows), clicked[rows], row_weights(dataset, rows))
    assert case.judged is not None
    row, raw = score_requests(
        model, source, case.chosen[case.judged], progress=case.progress, label="popularity"
    )
    calibration = Calibration()
    if "validation" in case.chosen:
        seen, logit = score_requests(model, source, case.chosen["validation"])
        half_life = float(case.run.record["settings"].get("calibration_half_life_days", 0.0))
        weight = row_weights(dataset, seen) * recency(dataset, seen, half_life)
        calibration = _calibration(logit, clicked[seen], weight)
    return ScoredSplit(dataset, row, calibration.apply(raw))


def _calibration(
    logit: NDArray[np.float32], clicked: NDArray[np.generic], weight: NDArray[np.float64]
) -> Calibration:
    try:
        return fit_calibration(logit, clicked, weight)
    except InputError:  # one class: nothing to calibrate on, and order is all that counts here
        return Calibration()


def _gain(case: Case, name: str, other: ScoredSplit) -> Gain:
    case.progress(0, None, f"comparing with {name}")
    mine = case.main
    every = np.ones(len(mine.row), dtype=bool)
    found = {}
    for label, inside in [(ALL, every), *mine.by_length()]:
        rows = mine.rows.where(inside)
        differences = metric_differences(
            rows,
            mine.logit[inside],
            other.logit[inside],
            replicates=case.replicates,
            seed=case.seed,
            curves=False,
        )
        found[label] = (len(rows.clicked), len(np.unique(rows.user)), differences)
    return Gain(name, found)


def _chart(gain: Gain) -> Markup:
    lengths = [(label, parts) for label, (_, _, parts) in gain.by_length.items() if label != ALL]
    known = [(index, label, parts["gauc"]) for index, (label, parts) in enumerate(lengths)]
    series = Series(
        "",
        [(float(index), each.value) for index, _, each in known],
        low=[each.low for _, _, each in known],
        high=[each.high for _, _, each in known],
    )
    return line_chart(
        [series],
        x=Axis("events before the request", [(i, label) for i, label, _ in known], -0.5, len(lengths) - 0.5),
        y=Axis("gain in GAUC"),
        title=f"Gain in GAUC over {gain.name} by history length",
        level=0.0,
    )


def _table(gain: Gain) -> Table:
    columns = [
        Column("events before", text=True),
        Column("rows", wide=True),
        Column("users", wide=True),
        Column("GAUC, this run", wide=True),
        Column("GAUC, baseline", wide=True),
        Column("gain"),
        Column("95 % interval"),
        Column("log loss", wide=True),
        Column("95 % interval", wide=True),
        Column("GAUC is", text=True),
    ]
    rows = [
        [
            label,
            count(rows),
            count(users),
            number(parts["gauc"].a),
            number(parts["gauc"].b),
            signed(parts["gauc"].value),
            span(parts["gauc"].low, parts["gauc"].high, sign=True),
            signed(parts["log_loss"].value),
            span(parts["log_loss"].low, parts["log_loss"].high, sign=True),
            _word(parts["gauc"]),
        ]
        for label, (rows, users, parts) in gain.by_length.items()
    ]
    return Table(columns, rows, f"Against {gain.name}")


def _word(difference: Difference) -> str:
    if not math.isfinite(difference.low):
        return ""
    if not difference.significant:
        return "not significant"
    return "better" if difference.value > 0 else "worse"
