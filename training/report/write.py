"""Writes the report of a run: scores it, fills the sections, puts the page in place in one step."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from training.bootstrap import REPLICATES, Interval
from training.full_disk import file_on_a_disk
from training.report.case import Case, open_case
from training.report.coverage import coverage_section, splits_section
from training.report.curves import curves_section
from training.report.gain import ALL, Gain, gain_section, gains_of
from training.report.maps import maps_section
from training.report.origin import origin_section
from training.report.page import Section, number, render, span
from training.report.quality import intervals_of, metrics_section, reliability_section, slices_section
from training.scoring import Progress

FILE: Final = "report.html"


def write_report(
    run: Path,
    *,
    baselines: Sequence[Path] = (),
    output: Path | None = None,
    category: str | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
    progress: Progress | None = None,
    now: datetime | None = None,
) -> Path:
    """Write the report of a run and return where it stands.

    Args:
        run: a run folder; its dataset must be where it was trained.
        baselines: runs on the same dataset to compare with; by default the newest of each model beside `run`.
            Popularity is always counted.
        output: the file to write; by default `report.html` in the run folder.
        category: the ad field of the correlation maps; by default one with a moderate number of values.
        replicates: draws of users behind every interval.
        seed: of those draws, and of the rows and requests drawn where there are too many.
        progress: called with (done, total, label).
        now: the time written into the page.

    Raises:
        RunError, DatasetError: the run, its dataset or a baseline can't be used.
        InputError: `category` is no such field, or `output` can't be written.
        LongsightError: no room for the page.

    """
    case = open_case(
        run,
        baselines=tuple(baselines),
        category=category,
        replicates=replicates,
        seed=seed,
        progress=progress,
    )
    case.progress(0, None, "intervals")
    intervals = intervals_of(case)
    gains = gains_of(case)
    written = (now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")
    foot = (
        f"Written {written} by Longsight. Intervals: 95 %, {replicates:,} draws of users, seed {seed}. "
        "Click rates, log loss, NE, PCOC and ECE weigh a row by 1 / sampling rate where it is known."
    )
    page = render(
        title=f"{run.resolve().name}: {case.run.model_name} on {case.dataset.path.name}",
        lead=_lead(case, intervals, gains),
        sections=_sections(case, intervals, gains),
        foot=foot,
    )
    target = output or run / FILE
    with file_on_a_disk(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return target


def _sections(case: Case, intervals: dict[str, dict[str, Interval]], gains: Sequence[Gain]) -> list[Section]:
    return [
        metrics_section(case, intervals),
        gain_section(case, gains),
        reliability_section(case),
        slices_section(case),
        maps_section(case),
        curves_section(case),
        coverage_section(case),
        splits_section(case),
        origin_section(case),
    ]


def _lead(case: Case, intervals: dict[str, dict[str, Interval]], gains: Sequence[Gain]) -> list[str]:
    """Return the report in a few sentences."""
    if case.judged is None:
        return ["Neither validation nor test has requests: there is nothing to judge."]
    found = intervals[case.judged]
    sentences = [
        f"Ranking on {case.judged}: GAUC {_with_span(found['gauc'])}, AUC {_with_span(found['auc'])}.",
        f"Probabilities: {_calibration(found['pcoc'])}.",
    ]
    for gain in gains:
        each = gain.by_length[ALL][2]["gauc"]
        if not math.isfinite(each.low):
            sentences.append(f"Against {gain.name}: the difference in GAUC has no interval here.")
            continue
        word = "better" if each.value > 0 else "worse"
        verdict = (
            f"{word} in GAUC by {abs(each.value):.4f}"
            if each.significant
            else "no significant difference in GAUC"
        )
        sentences.append(f"Against {gain.name}: {verdict} ({span(each.low, each.high, sign=True)}).")
    return sentences


def _with_span(each: Interval) -> str:
    return (
        f"{number(each.value)} ({span(each.low, each.high)})"
        if math.isfinite(each.value)
        else number(each.value)
    )


def _calibration(pcoc: Interval) -> str:
    if not math.isfinite(pcoc.value):
        return f"PCOC is {number(None)}, since nothing was clicked"
    text = f"PCOC {number(pcoc.value, 3)} ({span(pcoc.low, pcoc.high, 3)})"
    if math.isfinite(pcoc.low) and pcoc.low <= 1 <= pcoc.high:
        return f"{text}, true on average as far as this split can tell"
    change = pcoc.value - 1
    return f"{text}: {abs(change):.1%} {'more' if change > 0 else 'fewer'} clicks are expected than happen"
