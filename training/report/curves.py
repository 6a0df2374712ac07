"""The section on how training went: the lines of `metrics.jsonl`."""

import json
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from training.report.case import Case
from training.report.chart import Axis, Series, line_chart
from training.report.page import Chart, Charts, Column, Remark, Section, Table, number

Line = dict[str, Any]


def curves_section(case: Case) -> Section:
    """Return losses and validation metrics over training."""
    reading = (
        "Loss falls while the model learns; once validation stops improving while training loss still falls, it learns "
        "by heart. The weights of the epoch with the best validation GAUC are kept."
    )
    lines = _lines(case)
    epochs = [line for line in lines if "validation" in line]
    steps = [line for line in lines if "step" in line and _is_number(line.get("loss"))]
    if not epochs or not (steps or any(_is_number(line.get("train_loss")) for line in epochs)):
        text = (
            f"{case.run.model_name} is fitted by counting: there is no curve."
            if epochs
            else "No curve was kept."
        )
        return Section("curves", "Learning curves", reading, [Remark(text)])
    charts = [
        Chart(
            _losses(steps, epochs),
            f"Log loss of {'steps and ' if steps else ''}whole epochs, and on validation",
        ),
        Chart(_ranking(epochs), "Ranking on validation after each epoch"),
    ]
    return Section("curves", "Learning curves", reading, [Charts(charts), _table(epochs, case)])


def _losses(steps: Sequence[Line], epochs: Sequence[Line]) -> Markup:
    per_epoch = max((line["step"] / (line["epoch"] + 1) for line in steps), default=1.0)
    series = []
    if steps:
        series.append(
            Series("training, by step", [(line["step"] / per_epoch, line["loss"]) for line in steps])
        )
    ends = [(float(line["epoch"]) + 1, line) for line in epochs]
    trained = [(x, float(line["train_loss"])) for x, line in ends if _is_number(line.get("train_loss"))]
    series.append(Series("training, by epoch", trained, colour=2))
    validated = [(x, value) for x, line in ends if (value := _metric(line, "log_loss")) is not None]
    series.append(Series("validation", validated, colour=3))
    return line_chart(series, x=_epochs(epochs), y=Axis("log loss"), title="Log loss over epochs")


def _ranking(epochs: Sequence[Line]) -> Markup:
    series = [
        Series(
            title,
            [
                (float(line["epoch"]) + 1, value)
                for line in epochs
                if (value := _metric(line, name)) is not None
            ],
            colour=colour,
        )
        for title, name, colour in (("GAUC", "gauc", 1), ("AUC", "auc", 2))
    ]
    return line_chart(series, x=_epochs(epochs), y=Axis("GAUC, AUC"), title="GAUC and AUC over epochs")


def _table(epochs: Sequence[Line], case: Case) -> Table:
    columns = [
        Column("epoch", text=True),
        Column("training loss"),
        Column("validation log loss", wide=True),
        Column("validation GAUC"),
        Column("minutes", wide=True),
    ]
    best = case.run.record.get("best_epoch")
    rows = [
        [
            f"{line['epoch'] + 1}{' (kept)' if line['epoch'] == best else ''}",
            number(line.get("train_loss")),
            number(_metric(line, "log_loss")),
            number(_metric(line, "gauc")),
            number((line.get("seconds") or 0.0) / 60, 1),
        ]
        for line in epochs
    ]
    return Table(columns, rows)


def _epochs(epochs: Sequence[Line]) -> Axis:
    last = len(epochs)
    ticks = [(float(x), str(x)) for x in range(0, last + 1, max(1, last // 6))]
    return Axis("epochs", ticks, 0.0, float(last) + 0.1)


def _lines(case: Case) -> list[Line]:
    """Return the lines that can be read: a report doesn't fail for a torn one."""
    path = case.run.path / "metrics.jsonl"
    found = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and _is_number(line.get("epoch")):
            found.append(line)
    return found


def _metric(line: Line, name: str) -> float | None:
    value = line["validation"].get(name)
    return float(value) if _is_number(value) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value  # noqa: PLR0124 - NaN
