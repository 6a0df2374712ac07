"""The section on where the run comes from: model, settings, seed, versions, data."""

from typing import Any

from training.report.case import Case
from training.report.page import Column, Section, Table, number


def origin_section(case: Case) -> Section:
    """Return what is needed to make the run again."""
    record, origin = case.run.record, case.run.provenance
    reading = (
        "What is needed to make this run again: the same data fingerprint, code revision, versions, settings and seed "
        "give the same run on the same machine."
    )
    facts = {
        "model": case.run.model_name,
        "dataset": case.dataset.path.name,
        "data fingerprint": origin.get("dataset_fingerprint"),
        "schema fingerprint": case.run.schema.fingerprint(),
        "seed": origin.get("seed"),
        "trained": origin.get("created"),
        "minutes": number(float(record.get("seconds") or 0.0) / 60, 1),
        "kept": f"epoch {int(record.get('best_epoch', -1)) + 1}; stopped: {record.get('stopped')}",
        "calibration": f"logit = {case.run.calibration.a:.4g} x raw {case.run.calibration.b:+.4g}",
        "Longsight": origin.get("longsight"),
        "git revision": origin.get("git_revision"),
        "Python": origin.get("python"),
        **dict(origin.get("versions", {})),
    }
    more = {name: value for name, value in origin.items() if name not in _SHOWN}
    settings = {**dict(record.get("settings", {})), **case.run.config}
    return Section(
        "origin",
        "Provenance",
        reading,
        [_table("", {**facts, **more}), _table("Settings", settings)],
    )


_SHOWN = frozenset(
    {"dataset_fingerprint", "seed", "created", "longsight", "git_revision", "python", "versions"}
)


def _table(caption: str, facts: dict[str, Any]) -> Table:
    rows = [[name, _text(value)] for name, value in facts.items()]
    return Table([Column("name", text=True), Column("value", text=True)], rows, caption)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_text(each) for each in value)
    return "unknown" if value is None else str(value)
