"""Bars that show which channel of each ad every purchase of a household goes to: one self-contained SVG.

A row is a category of purchases, a column of bars an ad. A bar is the row's purchases, all of them, in the colours of
the channels they are routed to: solid what the channel's filter keeps, pale what it drops.

c channels, R rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

WIDTH: Final = 1000
_LEFT, _RIGHT, _TOP = 240, 24, 112
_GAP: Final = 26
_COUNT: Final = 46
"""Room for the number of a row's purchases."""
_LABEL, _TITLE = 25, 29
"""Letters that fit."""
_ROW, _BAR = 25, 17
_COLOURS: Final = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#9a6700", "#57606a", "#0e7490")
_STYLE: Final = """
    text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 13px;
           fill: #1f2328 }
    .title { font-size: 17px; font-weight: 600 }
    .ad { font-weight: 600 }
    .soft { fill: #57606a; font-size: 12px }
    .end { text-anchor: end }
    .own { fill: none; stroke: #1f2328; stroke-width: 1.5 }
    .pale { fill-opacity: 0.3 }"""


@dataclass(frozen=True)
class Ad:
    """One column of bars."""

    title: str
    about: str
    own: int | None
    """The row of purchases that share the ad's category; framed."""
    counts: NDArray[np.int64]
    """`[R, c, 2]` purchases: kept by the channel, and routed to it but dropped."""


def draw(title: str, about: str, rows: Sequence[tuple[str, int]], ads: Sequence[Ad]) -> str:
    """Return the SVG.

    Args:
        title: what is shown.
        about: the same in a sentence, below the title.
        rows: names of the rows and their purchases; the last stands apart, for all of them.
        ads: the columns.

    """
    channels = ads[0].counts.shape[1]
    height = _top(len(rows), last=len(rows)) + 34
    width = (WIDTH - _LEFT - _RIGHT - _GAP * (len(ads) - 1)) / len(ads)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title">',
        f'  <title id="title">{escape(title)}</title>',
        f"  <style>{_STYLE}\n  </style>",
        "  <!-- a ground of its own, so that the picture reads alike on light and dark pages -->",
        f'  <rect x="1" y="1" width="{WIDTH - 2}" height="{height - 2}" rx="10" fill="#ffffff" stroke="#d0d7de"/>',
        _text(24, 32, title, "title"),
        _text(24, 52, about, "soft"),
    ]
    for index, (name, count) in enumerate(rows):
        y = _top(index, last=len(rows) - 1) + 13
        parts += [_text(_LEFT - _COUNT, y, _short(name, _LABEL), "end")]
        parts += [_text(_LEFT - 12, y, str(count), "soft end")]
    for place, ad in enumerate(ads):
        left = _LEFT + place * (width + _GAP)
        parts += [_text(left, 84, _short(ad.title, _TITLE), "ad"), _text(left, 101, ad.about, "soft")]
        for index in range(len(rows)):
            top = _top(index, last=len(rows) - 1)
            parts += _bar(left, top, width, ad.counts[index])
            if index == ad.own:
                parts.append(
                    f'  <rect class="own" x="{left - 2.5:.1f}" y="{top - 2.5:.1f}" width="{width + 5:.1f}" '
                    f'height="{_BAR + 5}" rx="2"/>'
                )
    parts += _legend(channels, height - 18)
    return "\n".join([*parts, "</svg>", ""])


def _top(index: int, *, last: int) -> int:
    """Return where a row begins; the last stands apart."""
    return _TOP + _ROW * index + (10 if index >= last else 0)


def _bar(left: float, top: float, width: float, counts_c2: NDArray[np.int64]) -> Iterator[str]:
    total = int(counts_c2.sum())
    if not total:
        yield _text(left, top + 13, "none", "soft")
        return
    for channel, both in enumerate(counts_c2.tolist()):
        for count, kind in zip(both, ("", ' class="pale"'), strict=True):
            if count:
                wide = width * count / total
                yield (
                    f'  <rect{kind} x="{left:.1f}" y="{top}" width="{wide:.1f}" height="{_BAR}" '
                    f'fill="{_COLOURS[channel % len(_COLOURS)]}"/>'
                )
                left += wide


def _legend(channels: int, y: int) -> Iterator[str]:
    x = 24
    for channel in range(channels):
        yield f'  <rect x="{x}" y="{y - 10}" width="12" height="12" fill="{_COLOURS[channel % len(_COLOURS)]}"/>'
        yield _text(x + 18, y, f"channel {channel + 1}", "soft")
        x += 86
    said = "solid: kept by the channel's filter; pale: routed there, not kept; frame: the ad's own category"
    yield _text(WIDTH - 24, y, said, "soft end")


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip(" ,") + "…"


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'  <text class="{kind}" x="{x:.1f}" y="{y}">{escape(text)}</text>'
