"""Sections on the metrics, on whether probabilities are true, and on where they aren't."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from training.bootstrap import METRICS, Interval, metric_intervals, ratio_intervals
from training.compare import TITLES
from training.metrics import CALIBRATION_BINS, calibration_bins
from training.report.case import Case, probabilities
from training.report.chart import Axis, Series, line_chart, whisker
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
    share,
    span,
)
from training.report.slices import Slice, slices_of
from training.scored import ScoredSplit

LEAST_RATE: Final = 1e-5
"""Click rates below this are drawn at the edge of the reliability diagram."""
REACHES: Final = (1.1, 1.25, 1.5, 2.0, 4.0)
MEANING: Final = {
    "gauc": "of two ads shown to one user, how often the clicked one is ranked higher (.5 = chance)",
    "auc": "the same for any two impressions",
    "log_loss": "mean surprise at what happened; lower is better",
    "ne": "log loss over that of always saying the click rate; below 1 is better than that",
    "pcoc": "predicted over observed clicks; 1 is right, 1.1 expects 10 % too many",
    "ece": "mean gap between prediction and click rate, over 15 bins; lower is better",
}


def metrics_section(case: Case, found: dict[str, dict[str, Interval]]) -> Section:
    """Return the metrics of validation and test with their intervals."""
    blocks: list[Block] = []
    columns = [Column("metric", text=True)]
    for split in found:
        columns += [Column(split), Column("95 % interval")]
    columns.append(Column("what it says", text=True, wide=True))
    rows = [
        [
            TITLES[name],
            *(text for each in found.values() for text in (number(each[name].value), _span(each[name]))),
            MEANING[name],
        ]
        for name in METRICS
    ]
    if found:
        blocks.append(Table(columns, rows))
    missing = [split for split in ("validation", "test") if split not in found]
    blocks += [
        Remark(f"The {split} split has no requests: its metrics are {number(None)}.") for split in missing
    ]
    blocks += [Remark(text) for split in found if (text := case.sampled(split))]  # type: ignore[arg-type]
    reading = (
        "How well the run ranks (GAUC, AUC) and how true its probabilities are. The users here are a sample: 19 of 20 "
        "such intervals hold the figure of all users of their kind."
    )
    return Section("metrics", "Metrics", reading, blocks)


def intervals_of(case: Case) -> dict[str, dict[str, Interval]]:
    """Return the metrics of every scored split."""
    return {
        split: metric_intervals(each.rows, each.logit, replicates=case.replicates, seed=case.seed)
        for split, each in case.scored.items()
    }


def reliability_section(case: Case) -> Section:
    """Return predicted against observed click rates."""
    charts = [
        Chart(
            _reliability(case, each),
            f"{split}: {CALIBRATION_BINS} bins of equally many rows by rising prediction",
        )
        for split, each in case.scored.items()
    ]
    reading = (
        "Each dot is a bin of impressions: predicted click rate across, observed rate up, both axes logarithmic. On "
        "the dashed line predictions are true; below it they promise too much; a whisker that misses it is no chance."
    )
    blocks: list[Block] = [Charts(charts)] if charts else [Remark("No split has rows to judge.")]
    return Section("reliability", "Are the probabilities true?", reading, blocks)


def _reliability(case: Case, scored: ScoredSplit) -> Markup:
    p, rows = probabilities(scored), scored.rows
    group = calibration_bins(p, rows.weight)
    observed = ratio_intervals(
        rows.user, group, rows.weight * rows.clicked, rows.weight, replicates=case.replicates, seed=case.seed
    )
    mass = np.bincount(group, weights=rows.weight, minlength=len(observed))
    predicted = np.bincount(group, weights=rows.weight * p, minlength=len(observed)) / np.maximum(
        mass, 1e-300
    )
    bins = [
        (x, each) for x, each in zip(predicted.tolist(), observed, strict=True) if not math.isnan(each.value)
    ]
    ends = [value for x, each in bins for value in (x, each.value) if value > 0]
    floor = max(min(ends, default=0.01) / 1.5, LEAST_RATE)
    top = max([*ends, 2 * floor]) * 1.5
    return line_chart(
        [
            Series(
                "",
                [(max(x, floor), max(each.value, floor)) for x, each in bins],
                low=[max(each.low, floor) for _, each in bins],
                high=[min(max(each.high, floor), top) for _, each in bins],
            )
        ],
        x=Axis("predicted click rate", low=floor, high=top, log=True, percent=True),
        y=Axis("observed click rate", low=floor, high=top, log=True, percent=True),
        title="Reliability diagram: observed against predicted click rate",
        diagonal=True,
    )


def slices_section(case: Case) -> Section:
    """Return predicted over observed clicks by placement, campaign, novelty of the ad and history length."""
    reading = (
        "Predicted over observed clicks (PCOC) for parts of the traffic: 1 is right, above 1 promises too many clicks. "
        "The dot's line is its interval, on the axis named above it; if it misses the dashed 1, that is no chance."
    )
    if case.judged is None:
        return Section("pcoc", "Where are they wrong?", reading, [Remark("No split has rows to judge.")])
    tables = [_slice_table(case, each) for each in slices_of(case)]
    return Section("pcoc", "Where are they wrong?", f"{reading} Rows of the {case.judged} split.", tables)


def _slice_table(case: Case, each: Slice) -> Table:
    scored = case.main
    rows, p = scored.rows, probabilities(scored)
    inside = each.group >= 0
    group: NDArray[np.int64] = each.group[inside]
    weight, clicked = rows.weight[inside], rows.clicked[inside]
    found = ratio_intervals(
        rows.user[inside],
        group,
        weight * p[inside],
        weight * clicked,
        replicates=case.replicates,
        seed=case.seed,
    )
    size, mass, clicks, expected = (
        np.bincount(group, weights=part, minlength=len(each.labels))
        for part in (np.ones(len(group)), weight, weight * clicked, weight * p[inside])
    )
    reach = _reach(found)
    cells = [
        [
            label,
            count(size[g]),
            share(clicks[g] / mass[g]),
            share(expected[g] / mass[g]),
            number(found[g].value, 3) if math.isfinite(found[g].value) else "no click",
            span(found[g].low, found[g].high, 3),
            whisker(found[g].value, found[g].low, found[g].high, reach=reach),
        ]
        for g, label in enumerate(each.labels)
        if g < len(found) and size[g]
    ]
    return Table(_slice_columns(each.title, reach), cells, each.caption)


def _slice_columns(title: str, reach: float) -> list[Column]:
    return [
        Column(title, text=True),
        Column("rows"),
        Column("click rate", wide=True),
        Column("predicted", wide=True),
        Column("PCOC"),
        Column("95 % interval", wide=True),
        Column(f"{1 / reach:.2g} to {reach:g}"),
    ]


def _reach(found: Sequence[Interval]) -> float:
    """Return how far an axis around 1 must go, as a factor, to hold all dots and nine of ten intervals."""
    ends = [end for each in found for end in (each.low, each.high) if math.isfinite(end) and end > 0]
    furthest = float(np.quantile(np.abs(np.log(ends)), 0.9)) if ends else 0.0
    dots = [abs(math.log(each.value)) for each in found if math.isfinite(each.value) and each.value > 0]
    furthest = max([furthest, *dots])
    return next((factor for factor in REACHES if math.log(factor) >= furthest), REACHES[-1])


def _span(each: Interval) -> str:
    return span(each.low, each.high)
