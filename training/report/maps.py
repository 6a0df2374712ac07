"""The section on semantic-temporal correlation: what the log shows beside what the model learned."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.schema import SchemaField
from training.bootstrap import Interval, ratio_intervals
from training.report.case import Case
from training.report.chart import Axis, Series, heat_map, line_chart
from training.report.correlation import (
    AGE_NAMES,
    HORIZON,
    LEAST_CLICKS,
    RANK_NAMES,
    RANKS,
    Floats,
    Pairs,
    clicks_and_expected,
    count_pairs,
    effective_values,
    lifts,
    matched_fields,
)
from training.report.information import CATEGORIES
from training.report.page import Block, Chart, Charts, Remark, Section
from training.report.strength import Strength, strength_of

MODERATE: Final = 100.0
"""Effective number of categories that the maps' field should have, if it may be chosen."""
_READING: Final = (
    "Each cell is about pairs of a shown ad and one earlier behaviour of its user: in the row, what the two share; in "
    "the column, how long ago it was. 1 is an average pair; above 1 the pair speaks for a click (log), or weighs more "
    "(model). Where the model has looked well, the maps beside each other have the same pattern."
)


def maps_section(case: Case) -> Section:
    """Return measured and learned correlation by rank and by age."""
    name, title = "correlation", "Which behaviours count: the log and the model"
    if case.judged is None:
        return Section(name, title, _READING, [Remark("No split has rows to judge.")])
    fields = matched_fields(case)
    if not fields:
        return Section(name, title, _READING, [Remark("No categorical ad field matches a behaviour field.")])
    category = chosen_category(case, fields)
    length = case.main.length
    if not length.any():
        return Section(name, title, _READING, [Remark("No request has a history.")])
    if category not in fields:
        fields = [*fields[:-1], category]
    strength = strength_of(case.run.model)
    pairs = count_pairs(case, fields, category, None if isinstance(strength, str) else strength)
    blocks: list[Block] = [
        Charts(_maps(case, pairs, category, by_age=False), large=True),
        Charts(_maps(case, pairs, category, by_age=True), large=True),
        Charts(_lines(case, pairs, category)),
        Remark(_explained(case, pairs, category, strength)),
    ]
    return Section(name, title, _READING, blocks)


def chosen_category(case: Case, fields: Sequence[SchemaField]) -> SchemaField:
    """Return the field of the maps: the one asked for, else the one with a moderate number of values."""
    if case.category is None:
        return min(fields, key=lambda each: abs(math.log(effective_values(case, each) / MODERATE)))
    return case.dataset.schema.field("ad", case.category)


def _maps(case: Case, pairs: Pairs, category: SchemaField, *, by_age: bool) -> list[Chart]:
    same_FP, other_FP = lifts(case, pairs)
    place = pairs.fields.index(category)
    part = slice(len(RANKS), None) if by_age else slice(0, len(RANKS))
    columns = AGE_NAMES if by_age else RANK_NAMES
    rows = [*(each.name for each in pairs.fields), f"other {category.name}"]
    foot = (
        "time before the request, within the last ..." if by_age else "events before the request, from ... on"
    )
    what = "age" if by_age else "rank"
    measured = np.vstack([same_FP, other_FP[place]])[:, part]
    charts = [
        Chart(
            heat_map(rows, columns, measured.tolist(), title=f"Measured correlation by {what}", foot=foot),
            f"Measured in the log, by {what}: clicks over those that the ads' popularity makes one expect",
        )
    ]
    if pairs.learned is not None and pairs.learned_other is not None:
        learned = np.vstack([pairs.learned, pairs.learned_other[place]])[:, part]
        learned = np.where(np.isnan(measured), np.nan, learned)
        charts.append(
            Chart(
                heat_map(rows, columns, learned.tolist(), title=f"Learned correlation by {what}", foot=foot),
                f"Learned by {case.run.path.resolve().name}, by {what}: strength of a pair, 1 = an average one",
            )
        )
    return charts


def _lines(case: Case, pairs: Pairs, category: SchemaField) -> list[Chart]:
    ticks = [(float(index), name) for index, name in enumerate(RANK_NAMES)]
    x = Axis("events before the request, from ... on", ticks, -0.3, len(ticks) - 0.7)
    place, ranks = pairs.fields.index(category), slice(0, len(RANKS))
    names = (f"same {category.name}", f"other {category.name}")
    bands = zip(names, _measured_bands(case, pairs, place), (1, 2), strict=True)
    lift = [_band(name, each, colour) for name, each, colour in bands]
    drawn = line_chart(lift, x=x, y=Axis("lift", log=True), title="Measured lift by rank", level=1.0)
    charts = [Chart(drawn, "Measured in the log: lift with 95 % intervals")]
    if pairs.learned is not None and pairs.learned_other is not None:
        strength = _plain(names, (pairs.learned[place, ranks], pairs.learned_other[place, ranks]))
        axis = Axis("strength", log=True)
        drawn = line_chart(strength, x=x, y=axis, title="Learned strength by rank", level=1.0)
        charts.append(Chart(drawn, "Learned: strength, 1 = an average pair"))
    bits = _plain(names, (pairs.same_information, pairs.other_information))
    drawn = line_chart(bits, x=x, y=Axis("1/1000 bit"), title="Mutual information by rank", level=0.0)
    caption = f"Measured in the log: mutual information of a behaviour's {category.name} and the click"
    return [*charts, Chart(drawn, caption)]


def _measured_bands(case: Case, pairs: Pairs, place: int) -> tuple[list[Interval], list[Interval]]:
    """Return the lift by rank with intervals, of pairs that agree in the field and of the others."""
    clicks_R, expected_R = clicks_and_expected(case, pairs)
    all_RP = pairs.every[:, : len(RANKS)].astype(np.float64)
    same_RP = pairs.same[:, place, : len(RANKS)].astype(np.float64)
    user = np.repeat(case.main.user[pairs.row], len(RANKS))
    group = np.tile(np.arange(len(RANKS)), len(pairs.row))

    def sums(kind_RP: Floats) -> tuple[Floats, Floats]:
        return (kind_RP * clicks_R[:, None]).ravel(), (kind_RP * expected_R[:, None]).ravel()

    def bands(kind_RP: Floats) -> list[Interval]:
        return ratio_intervals(
            user,
            group,
            *sums(kind_RP),
            relative_to=sums(all_RP),
            replicates=case.replicates,
            seed=case.seed,
        )

    return bands(same_RP), bands(all_RP - same_RP)


def _band(name: str, found: Sequence[Interval], colour: int) -> Series:
    kept = [(float(i), each) for i, each in enumerate(found) if each.value > 0]
    return Series(
        name,
        [(i, each.value) for i, each in kept],
        low=[each.low if each.low > 0 else each.value for _, each in kept],
        high=[each.high if each.low > 0 else each.value for _, each in kept],
        band=True,
        colour=colour,
    )


def _plain(names: Sequence[str], lines: Sequence[NDArray[np.float64]]) -> list[Series]:
    return [
        Series(name, [(float(i), v) for i, v in enumerate(line.tolist()) if math.isfinite(v)], colour=colour)
        for colour, (name, line) in enumerate(zip(names, lines, strict=True), start=1)
    ]


def _explained(case: Case, pairs: Pairs, category: SchemaField, strength: Strength | str) -> str:
    limit = case.run.history_length
    if isinstance(strength, str):
        model = f"{strength}."
    else:
        model = f"{strength.formula}." + (f" It sees the newest {limit:,} events." if limit < HORIZON else "")
    return (
        f"From {pairs.requests:,} requests ({len(pairs.row):,} rows) of the {case.judged} split drawn at random (seed "
        f"{case.seed}), up to {HORIZON:,} events back. Measured: clicks of the pairs' ads over those expected from how "
        f"often each ad was clicked in training, relative to all pairs of that column; a cell with fewer than "
        f"{LEAST_CLICKS:.0f} expected clicks shows a dot. Mutual information: of 'the behaviour has category c' and "
        f"the click on an ad of category t, for c = t, and on average for c other than t, over the {CATEGORIES} most "
        f"frequent values of {category.name}, less what the histories of other users give. Learned: {model}"
    )
