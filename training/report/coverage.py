"""Sections on the data: what is known of users and ads, how long histories are, how the log was split."""

from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.schema import Group, SchemaField
from training.dataset import SPLITS, SplitName
from training.report.case import Case
from training.report.chart import bars
from training.report.page import (
    Block,
    Chart,
    Charts,
    Column,
    Remark,
    Section,
    Table,
    breakable,
    count,
    share,
)
from training.weights import row_weights

LENGTHS: Final = (0, 1, 10, 50, 100, 200, 500, 1000, 2000, 5000)
MOST_EVENTS: Final = 1_000_000
"""Events whose ids are looked up to tell how many are unknown; of more, some are drawn."""


def splits_section(case: Case) -> Section:
    """Return time, size and click rate of every split, and what is known of the sampling."""
    reading = (
        "The log is cut by time: the run learned from the first part, was chosen and calibrated on the second, and is "
        "judged on the third. Click rates that differ much between splits mean that the log drifts."
    )
    columns = [
        Column("split", text=True),
        Column("from (UTC)", text=True),
        Column("to", text=True, wide=True),
        Column("rows"),
        Column("requests", wide=True),
        Column("users", wide=True),
        Column("clicks", wide=True),
        Column("click rate"),
    ]
    rows = [_split_row(case, name) for name in SPLITS]
    blocks: list[Block] = [Table(columns, rows), Remark(_sampling(case))]
    return Section("splits", "Splits", reading, blocks)


def coverage_section(case: Case) -> Section:
    """Return how much of every split is known: histories, profiles, ads, ids."""
    reading = (
        "What the model had to work with. An id is out of vocabulary (OOV) where training never or hardly ever saw it: "
        "it shares a row with other strangers, so a high share means that the model guesses."
    )
    blocks: list[Block] = [_known(case), _unknown_ids(case)]
    if case.judged is not None:
        blocks.append(_lengths(case))
    return Section("coverage", "Coverage", reading, blocks)


def _split_row(case: Case, name: SplitName) -> list[str]:
    dataset = case.dataset
    chosen = np.flatnonzero(dataset.requests["split"] == SPLITS.index(name))
    if not len(chosen):
        return [name, "empty", "", "0", "0", "0", "0", "-"]
    requests = dataset.requests[chosen]
    rows = dataset.rows_of(chosen)
    clicked = np.asarray(dataset.row("clicked"))[rows]
    rate = float(np.average(clicked, weights=row_weights(dataset, rows)))
    return [
        name,
        _date(int(requests["timestamp"].min())),
        _date(int(requests["timestamp"].max())),
        count(len(rows)),
        count(len(chosen)),
        count(len(np.unique(requests["user"]))),
        count(int(clicked.sum())),
        f"{100 * rate:.2f}\u00a0%",
    ]


def _sampling(case: Case) -> str:
    sampling = case.dataset.manifest["sampling"]
    lag = (
        f" Histories end {case.dataset.history_lag_s:,} s before their request."
        if case.dataset.history_lag_s
        else ""
    )
    if not sampling.get("known"):
        text = "The log does not say how its rows were sampled: nothing is corrected, and probabilities are relative"
        return f"{text} to ads chosen like those of the log.{lag}"
    clicked, others = sampling.get("clicked"), sampling.get("not_clicked")
    if clicked == 1 and others == 1:
        return f"Every impression was kept in the log.{lag}"
    kept = (
        "one constant rate each" if clicked is not None and others is not None else "rates that differ by row"
    )
    rates = f" (clicked {clicked:g}, others {others:g})" if kept.startswith("one") else ""
    return f"Rows were kept with {kept}{rates}; click rates and calibration weigh a row by 1 / rate.{lag}"


def _known(case: Case) -> Table:
    dataset = case.dataset
    requests = dataset.requests
    profile = np.zeros(len(dataset.user_keys), dtype=bool)
    for field in dataset.schema.user:
        values = np.asarray(dataset.column("user", field.name))
        profile |= values != 0 if field.type == "categorical" else ~np.isnan(values)
    columns = [Column("share of", text=True), *(Column(name) for name in case.chosen)]
    lines: list[list[str]] = [
        ["rows whose user has a history"],
        ["users with a profile"],
        ["rows whose ad training showed"],
        ["requests with more events than the model sees"],
        ["history places left empty (padding to L)"],
    ]
    length_limit = case.run.history_length
    for chosen in case.chosen.values():
        part = requests[chosen]
        length = part["end"] - part["start"]
        rows = np.asarray(dataset.row("ad"))[dataset.rows_of(chosen)]
        users = np.unique(part["user"])
        shares = (
            np.average(length > 0, weights=part["rows"]),
            profile[users].mean() if dataset.schema.user else np.nan,
            (case.shown_in_training[rows] > 0).mean(),
            (length > length_limit).mean() if _reads_history(case) else np.nan,
            1 - (np.minimum(length, length_limit) / length_limit).mean() if _reads_history(case) else np.nan,
        )
        for line, value in zip(lines, shares, strict=True):
            line.append(share(float(value)))
    return Table(columns, lines, f"What is known (L = {length_limit:,} events)")


def _reads_history(case: Case) -> bool:
    return any(name.startswith("history_") for name in case.run.model.inputs)


def _unknown_ids(case: Case) -> Table:
    splits = list(case.chosen)
    columns = [
        Column("field", text=True, long=True),
        Column("vocabulary", text=True, wide=True),
        Column("known ids", wide=True),
    ]
    columns += [Column(f"OOV, {name}") for name in splits]
    columns.append(Column(f"missing, {splits[-1]}", wide=True))
    groups: tuple[Group, ...] = ("behavior", "ad", "user", "context")
    rows: list[list[str]] = []
    for group in groups:
        fields = [field for field in case.dataset.schema.group(group) if field.vocabulary is not None]
        rows += [_unknown_row(case, group, field) for field in fields]
    return Table(columns, rows, "Ids that training does not know, by field")


def _unknown_row(case: Case, group: Group, field: SchemaField) -> list[str]:
    vocabulary = case.run.encoder.vocabularies[str(field.vocabulary)]
    exact = vocabulary.spec.kind == "exact"
    cells, missing = [], np.nan
    for split in case.chosen:
        keys = _keys(case, group, field.name, split)
        known = vocabulary.rows(keys) >= vocabulary.first_known_row
        present = keys != 0
        cells.append(
            share(float((present & ~known).sum() / present.sum())) if exact and present.any() else "-"
        )
        missing = float(1 - present.mean()) if present.size else np.nan
    size = count(len(vocabulary.known)) if exact else "hashed"
    return [breakable(f"{group}.{field.name}"), str(field.vocabulary), size, *cells, share(missing)]


def _keys(case: Case, group: Group, name: str, split: SplitName) -> NDArray[np.uint64]:
    """Return the ids of a field as often as a split holds them; behaviours are those of the split's period."""
    dataset = case.dataset
    if group == "behavior":
        time = dataset.records["timestamp"]
        edges = (-np.inf, dataset.split.validation_from, dataset.split.test_from, np.inf)
        index = SPLITS.index(split)
        inside = (time >= edges[index]) & (time < edges[index + 1])
        found = np.flatnonzero(inside)
        if len(found) > MOST_EVENTS:
            found = np.sort(np.random.default_rng(case.seed).choice(found, MOST_EVENTS, replace=False))
        return np.ascontiguousarray(dataset.records[name][found])
    chosen = case.chosen[split]
    column = np.asarray(dataset.column(group, name))
    if group == "user":
        return np.asarray(column[dataset.requests["user"][chosen]])
    rows = dataset.rows_of(chosen)
    return np.asarray(column[np.asarray(dataset.row("ad"))[rows] if group == "ad" else rows])


def _lengths(case: Case) -> Block:
    assert case.judged is not None
    requests = case.dataset.requests[case.chosen[case.judged]]
    length = requests["end"] - requests["start"]
    group = np.digitize(length, LENGTHS[1:])
    labels = ["none", *(_range(index) for index in range(1, len(LENGTHS)))]
    shares = np.bincount(group, minlength=len(LENGTHS)) / len(length) * 100
    last = int(group.max())
    middle, high = np.quantile(length, [0.5, 0.9])
    caption = (
        f"Events before a request of the {case.judged} split, % of requests; median {middle:,.0f}, "
        f"one in ten has more than {high:,.0f}, the longest {length.max():,}"
    )
    return Charts([Chart(bars(labels[: last + 1], shares.tolist()[: last + 1], title=caption), caption)])


def _range(index: int) -> str:
    low, following = LENGTHS[index], LENGTHS[index + 1] if index + 1 < len(LENGTHS) else None
    return f"{low:,} or more" if following is None else f"{low:,} to {following - 1:,}"


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
