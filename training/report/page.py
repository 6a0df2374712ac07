"""The parts of a report, and the page made of them: sections that hold tables, charts and remarks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

UNDEFINED: Final = "not defined here"


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    wide: bool = False
    """Shown only where there is room: left out on a telephone."""
    text: bool = False
    """Words rather than figures: on the left."""
    long: bool = False
    """Given room on a telephone too: names that read badly when they are broken."""


@dataclass(frozen=True)
class Table:
    """Rows of cells; a cell is a text or a small chart."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str | Markup]]
    caption: str = ""
    kind: str = "table"


@dataclass(frozen=True)
class Chart:
    """One picture with a caption."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Charts:
    """Pictures side by side where there is room."""

    charts: Sequence[Chart]
    large: bool = False
    """Two beside each other rather than three."""
    kind: str = "charts"


@dataclass(frozen=True)
class Remark:
    """A paragraph."""

    text: str
    kind: str = "remark"


Block = Table | Charts | Remark


@dataclass(frozen=True)
class Section:
    """One heading, the sentence that tells how to read what is under it, and that."""

    name: str
    """In the page's address: letters and dashes."""
    title: str
    reading: str
    blocks: Sequence[Block] = field(default_factory=tuple)


def render(*, title: str, lead: Sequence[str], sections: Sequence[Section], foot: str) -> str:
    """Return the page as HTML that needs nothing else; every text is escaped."""
    environment = Environment(
        loader=PackageLoader("training.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html.j2")
    return template.render(title=title, lead=lead, sections=sections, foot=foot)


def number(value: float | None, digits: int = 4) -> str:
    """Return a figure, or words where there is none."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    return f"{value:,.{digits}f}"


def signed(value: float, digits: int = 4) -> str:
    """Return a figure with its sign."""
    return f"{value:+.{digits}f}" if math.isfinite(value) else UNDEFINED


def count(value: float) -> str:
    """Return a whole number with its thousands apart."""
    return f"{value:,.0f}"


def share(value: float) -> str:
    """Return a share as per cent."""
    return f"{100 * value:.1f}\u00a0%" if math.isfinite(value) else "-"


def span(low: float, high: float, digits: int = 4, *, sign: bool = False) -> str:
    """Return an interval, or words where there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    form = f"+.{digits}f" if sign else f".{digits}f"
    return f"{low:{form}} to {high:{form}}"


def breakable(name: str) -> Markup:
    """Return a name that may be broken after its dots and underscores."""
    text = escape(name)
    for mark in "._":
        text = text.replace(mark, Markup("{}<wbr>").format(mark))
    return text
