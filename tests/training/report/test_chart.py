"""Small charts: what is drawn is where its value is, and what can't be drawn isn't."""

import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from training.report.chart import Axis, Series, bars, figure, heat_map, line_chart, whisker

NAN = math.nan


def parsed(markup: object) -> ET.Element:
    return ET.fromstring(re.match(r"<svg.*?</svg>", str(markup), re.DOTALL)[0])


def kinds(root: ET.Element, tag: str, kind: str) -> list[ET.Element]:
    return [each for each in root.iter(tag) if kind in each.get("class", "").split()]


def chart(points, **options):
    return parsed(line_chart([Series("a", points, **options)], x=Axis("x"), y=Axis("y"), title="t"))


def test_higher_values_stand_higher_and_later_ones_further_right():
    dots = kinds(chart([(0.0, 1.0), (1.0, 3.0), (2.0, 2.0)]), "circle", "c1")
    xs, ys = ([float(dot.get(name)) for dot in dots] for name in ("cx", "cy"))
    assert xs == sorted(xs)
    assert ys[1] < ys[2] < ys[0]


def test_whiskers_reach_from_low_to_high_and_undefined_ones_are_left_out():
    root = chart([(0.0, 1.0), (1.0, 2.0), (2.0, NAN)], low=[0.5, NAN, NAN], high=[1.5, NAN, NAN])
    (line,) = kinds(root, "line", "s1")
    assert float(line.get("y1")) > float(line.get("y2"))
    assert len(kinds(root, "circle", "c1")) == 2


@pytest.mark.parametrize("points", [[], [(1.0, 5.0)], [(1.0, 5.0), (2.0, 5.0)], [(0.0, 0.0)], [(NAN, NAN)]])
@pytest.mark.parametrize("log", [True, False])
def test_nothing_one_point_and_equal_values_make_a_chart(points, log):
    text = str(line_chart([Series("", points)], x=Axis("x"), y=Axis("y", log=log), title="t"))
    assert "nan" not in text
    assert "inf" not in text


def test_ticks_are_round_and_no_two_alike():
    for low, high in ((0.0, 1.0), (0.7741, 0.7802), (-0.02, 0.03), (3.0, 40_000.0)):
        root = parsed(
            line_chart(
                [Series("", [(0.0, low), (1.0, high)])], x=Axis("x", [(0.0, "")]), y=Axis("y"), title=""
            )
        )
        texts = [each.text for each in root.iter("text") if each.get("text-anchor") == "end"]
        assert 2 <= len(texts) <= 6
        assert len(set(texts)) == len(texts)
        values = [float(text.replace(",", "")) for text in texts]
        steps = {round(b - a, 9) for a, b in pairwise(values)}
        assert len(steps) == 1


def test_ticks_of_rates_are_per_cents():
    axis = Axis("rate", low=0.01, high=0.9, log=True, percent=True)
    root = parsed(line_chart([Series("", [(0.1, 0.1)])], x=axis, y=axis, title="t", diagonal=True))
    assert {"2 %", "10 %", "50 %"} <= {each.text for each in root.iter("text")}


def test_cells_are_coloured_by_which_side_of_one_they_are_on():
    root = parsed(heat_map(["r"], ["a", "b", "c", "d"], [[4.0, 0.25, 1.0, NAN]], title="t", foot="f"))
    cells = list(root.iter("rect"))
    assert [cell.get("class") for cell in cells] == ["more", "less", "more"]
    assert [cell.get("fill-opacity") for cell in cells] == ["1", "1", "0"]


def test_texts_are_escaped_everywhere():
    evil = "<b>&\"'"
    drawn = [
        line_chart(
            [Series(evil, [(0.0, 1.0)]), Series("b", [])],
            x=Axis(evil, [(0.0, evil)]),
            y=Axis(evil),
            title=evil,
        ),
        bars([evil], [1.0], title=evil),
        heat_map([evil], [evil], [[1.0]], title=evil, foot=evil),
    ]
    for each in drawn:
        assert "<b>" not in each
        ET.fromstring(f"<all>{each}</all>")


def test_a_whisker_beyond_its_axis_ends_there():
    root = parsed(whisker(9.0, 0.01, 9.0, reach=1.25))
    (line,) = kinds(root, "line", "s1")
    assert (float(line.get("x1")), float(line.get("x2"))) == (4.0, 96.0)
    assert not kinds(parsed(whisker(NAN, NAN, NAN, reach=2.0)), "circle", "c1")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.034, ".03"),
        (0.5, ".50"),
        (0.996, "1.0"),
        (1.0, "1.0"),
        (12.34, "12.3"),
        (1234.0, "1234"),
    ],
)
def test_figures_of_a_cell_are_short(value, text):
    assert figure(value) == text
