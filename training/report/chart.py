"""Small charts as inline SVG: no script, no style of their own, colours from the page's variables.

Every chart is drawn 380 units wide, so that its text is legible on a telephone and it may stand beside another
on a desk. Texts are escaped; what isn't a finite number isn't drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

WIDTH: Final = 380
_HEIGHT: Final = 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 12, 10, 43
_TICKS: Final = 5

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A line, or dots with whiskers where `low` and `high` are given."""

    name: str
    points: Sequence[Point]
    """(x, y)."""
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    band: bool = False
    """Draw low to high as a band behind a line rather than as whiskers on dots."""
    colour: int = 1
    """1 to 4: a variable of the page."""


@dataclass(frozen=True)
class Axis:
    """One axis."""

    title: str
    ticks: Sequence[tuple[float, str]] = ()
    """Places and texts; chosen by the range if none are given."""
    low: float | None = None
    high: float | None = None
    log: bool = False
    percent: bool = False


def line_chart(
    series: Sequence[Series],
    *,
    x: Axis,
    y: Axis,
    title: str,
    diagonal: bool = False,
    level: float | None = None,
) -> Markup:
    """Return lines and dots over a grid.

    Args:
        series: what is drawn, in this order.
        x: the axis below.
        y: the axis on the left.
        title: read out instead of the picture.
        diagonal: draw y = x.
        level: draw this y as a dashed line.

    """
    seen = [(point, each) for each in series for point in each.points if _finite(*point)]
    across = _Scale(x, [point[0] for point, _ in seen], _LEFT, WIDTH - _RIGHT)
    heights = [point[1] for point, _ in seen]
    heights += [value for each in series for value in (*each.low, *each.high) if _finite(value)]
    up = _Scale(y, heights, _HEIGHT - _BOTTOM, _TOP)
    parts = [_grid(across, up, x.title, y.title)]
    if level is not None:
        parts.append(_line("ref", across.start, up(level), across.end, up(level)))
    if diagonal:
        low, high = max(across.low, up.low), min(across.high, up.high)
        parts.append(_line("ref", across(low), up(low), across(high), up(high)))
    parts += [_drawn(each, across, up) for each in series]
    return _svg(parts, _HEIGHT, title) + _legend(series)


def bars(labels: Sequence[str], values: Sequence[float], *, title: str, unit: str = "%") -> Markup:
    """Return one horizontal bar per label, its value written at its end."""
    top = max([value for value in values if _finite(value)], default=1.0) or 1.0
    parts: list[Markup] = []
    for index, (label, value) in enumerate(zip(labels, values, strict=True)):
        y = 6 + 22 * index
        width = 200 * (value / top) if _finite(value) else 0
        parts.append(_text(108, y + 13, label, anchor="end"))
        parts.append(
            Markup('<rect class="c1" x="114" y="{}" width="{}" height="16" rx="2"/>').format(y, _n(width))
        )
        parts.append(_text(118 + width, y + 13, f"{value:.1f}{unit}" if _finite(value) else "-"))
    return _svg(parts, 12 + 22 * len(labels), title)


def heat_map(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], *, title: str, foot: str
) -> Markup:
    """Return a table of cells, coloured by the log of their value: above 1 one colour, below 1 another."""
    left, height = 120, 26
    width = (WIDTH - left - 2) / max(1, len(columns))
    logs = [abs(math.log(v)) for row in values for v in row if _finite(v) and v > 0]
    strongest = max([*logs, math.log(1.5)])
    parts = [
        _text(left + width * (index + 0.5), 12, name, anchor="middle", kind="tiny")
        for index, name in enumerate(columns)
    ]
    parts.append(_text(left - 5, 12, "same ...", anchor="end", kind="tiny soft"))
    for line, (name, row) in enumerate(zip(rows, values, strict=True)):
        y = 18 + height * line
        parts.append(_text(left - 5, y + 17, _short(name, 22), anchor="end", kind="tiny"))
        for index, value in enumerate(row):
            parts.append(
                _cell(left + width * index, y, width=width, height=height, value=value, strongest=strongest)
            )
    bottom = 18 + height * len(rows)
    parts.append(_text((left + WIDTH) / 2, bottom + 16, foot, anchor="middle"))
    return _svg(parts, bottom + 24, title)


def whisker(value: float, low: float, high: float, *, reach: float) -> Markup:
    """Return a dot with its interval on a log axis from 1 / reach to reach around a line at 1, for a cell."""
    axis = _Scale(Axis("", low=1 / reach, high=reach, log=True), [], 4, 96)

    def at(x: float) -> str:
        return _n(axis(min(reach, max(1 / reach, x))))

    parts = [_line("ref", 50, 0, 50, 16)]
    if _finite(low, high) and low > 0:
        span = Markup('<line class="s1" x1="{}" y1="8" x2="{}" y2="8"/>')
        parts.append(span.format(at(low), at(high)))
    if _finite(value) and value > 0:
        parts.append(Markup('<circle class="c1" cx="{}" cy="8" r="3"/>').format(at(value)))
    return Markup('<svg class="whisker" viewBox="0 0 100 16" aria-hidden="true">{}</svg>').format(
        Markup().join(parts)
    )


class _Scale:
    """From values to places."""

    def __init__(self, axis: Axis, values: Sequence[float], start: float, end: float) -> None:
        known = [value for value in values if _finite(value) and (value > 0 or not axis.log)]
        low = min(known, default=0.5 if axis.log else 0.0) if axis.low is None else axis.low
        high = max(known, default=1.0) if axis.high is None else axis.high
        margin = 0.04 * (high - low) or abs(high) * 0.1 or 1.0
        self.log = axis.log
        self.low = low if axis.low is not None or axis.log else low - margin
        self.high = high if axis.high is not None or axis.log else high + margin
        if self.log and self.low >= self.high:
            self.low, self.high = self.low / 2, self.high * 2
        self.start, self.end = start, end
        self.ticks = [tick for tick in axis.ticks if self.low <= tick[0] <= self.high] or self._round_ticks(
            axis
        )

    def __call__(self, value: float) -> float:
        low, high = self._of(self.low), self._of(self.high)
        return self.start + (self._of(value) - low) / ((high - low) or 1.0) * (self.end - self.start)

    def holds(self, *values: float) -> bool:
        """Tell whether all of these have a place."""
        return _finite(*values) and (not self.log or min(values) > 0)

    def _of(self, value: float) -> float:
        return math.log(value) if self.log else value

    def _round_ticks(self, axis: Axis) -> list[tuple[float, str]]:
        span = self.high - self.low
        if self.log and self.high / self.low > 8:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            factors = (1, 2, 5) if self.high / self.low < 300 else (1,)
            values = [f * 10.0**k for k in powers for f in factors if self.low <= f * 10.0**k <= self.high]
            values = values[:: 1 + len(values) // (_TICKS + 4)]
            return [(value, f"{100 * value:g} %" if axis.percent else f"{value:g}") for value in values]
        step = 10 ** math.floor(math.log10(span / _TICKS))
        step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= _TICKS)
        digits = max(0, -math.floor(math.log10(step) + 1e-9) - 2 * axis.percent)
        first = math.ceil(self.low / step)
        values = [step * (first + index) for index in range(_TICKS + 1)]
        texts = [f"{100 * v:,.{digits}f} %" if axis.percent else f"{v:,.{digits}f}" for v in values]
        return [(v, text) for v, text in zip(values, texts, strict=True) if v <= self.high]


def _grid(across: _Scale, up: _Scale, x_title: str, y_title: str) -> Markup:
    parts = []
    for value, text in up.ticks:
        parts.append(_line("grid", across.start, up(value), across.end, up(value)))
        parts.append(_text(across.start - 5, up(value) + 4, text, anchor="end"))
    for value, text in across.ticks:
        parts.append(_text(across(value), up.start + 18, text, anchor="middle"))
    parts.append(_line("axis", across.start, up.start, across.end, up.start))
    parts.append(_text((across.start + across.end) / 2, up.start + 36, x_title, anchor="middle", kind="soft"))
    turned = Markup('<g transform="translate(11 {}) rotate(-90)">{}</g>')
    parts.append(
        turned.format(_n((up.start + up.end) / 2), _text(0, 0, y_title, anchor="middle", kind="soft"))
    )
    return Markup().join(parts)


def _drawn(series: Series, across: _Scale, up: _Scale) -> Markup:
    places = [(across(a), up(b)) for a, b in series.points if across.holds(a) and up.holds(b)]
    parts = []
    spans = [
        (across(point[0]), up(low), up(high))
        for point, low, high in zip(series.points, series.low, series.high, strict=False)
        if across.holds(point[0]) and up.holds(low, high)
    ]
    if series.band and spans:
        edge = [f"{_n(a)},{_n(low)}" for a, low, _ in spans]
        edge += [f"{_n(a)},{_n(high)}" for a, _, high in reversed(spans)]
        parts.append(Markup('<polygon class="b{}" points="{}"/>').format(series.colour, " ".join(edge)))
    elif spans:
        parts += [_line(f"s{series.colour}", a, low, a, high) for a, low, high in spans]
    if series.band or not series.low:
        path = " ".join(f"{_n(a)},{_n(b)}" for a, b in places)
        parts.append(Markup('<polyline class="s{} line" points="{}"/>').format(series.colour, path))
    if len(places) < 40:
        dot = Markup('<circle class="c{}" cx="{}" cy="{}" r="2.8"/>')
        parts += [dot.format(series.colour, _n(a), _n(b)) for a, b in places]
    return Markup().join(parts)


def _cell(x: float, y: float, *, width: float, height: float, value: float, strongest: float) -> Markup:
    if not _finite(value):
        return _text(x + width / 2, y + 17, "·", anchor="middle", kind="soft")
    strength = min(1.0, abs(math.log(value)) / strongest) if value > 0 else 1.0
    box = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}" fill-opacity="{}"/>').format(
        "more" if value >= 1 else "less",
        _n(x + 0.5),
        _n(y + 0.5),
        _n(width - 1),
        _n(height - 1),
        _n(strength),
    )
    return box + _text(x + width / 2, y + 17, figure(value), anchor="middle", kind="tiny")


def figure(value: float) -> str:
    """Return a positive value in at most four characters where that is possible."""
    if value < 0.095:
        return f"{value:.2f}".lstrip("0") if value >= 0.005 else "0"
    if value < 1:
        return f"{value:.2f}".lstrip("0") if f"{value:.2f}" != "1.00" else "1.0"
    return f"{value:.1f}" if value < 99.5 else f"{value:.0f}"


def _legend(series: Sequence[Series]) -> Markup:
    named = [each for each in series if each.name]
    if len(named) < 2:
        return Markup()
    key = Markup('<span class="key"><i class="k{}"></i>{}</span>')
    return Markup('<div class="keys">{}</div>').format(
        Markup().join(key.format(each.colour, each.name) for each in named)
    )


def _svg(parts: Sequence[Markup], height: float, title: str) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, _n(height), title, Markup().join(parts)
    )


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        kind, _n(x1), _n(y1), _n(x2), _n(y2)
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", kind: str = "") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind, _n(x), _n(y), anchor, escape(text)
    )


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _finite(*values: float) -> bool:
    return all(math.isfinite(value) for value in values)


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
