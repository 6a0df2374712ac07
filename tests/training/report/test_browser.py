"""The page in a real Chromium, on a telephone and on a desk: nothing overflows, complains or calls out."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import CHROMIUM, Page, chromium
from tests.support.tiny import tiny_run
from training.report import write_report

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="no chromium: apt-get install chromium"
)

# Elements that stick out of the window, or texts of a chart that stick out of it.
STICKING_OUT = """
[...document.querySelectorAll('body *')].filter(e => {
  const box = e.getBoundingClientRect();
  if (!box.width) return false;
  const chart = e.closest('svg');
  const room = e.tagName == 'text' && chart ? chart.getBoundingClientRect() : {left: 0, right: innerWidth};
  return box.right > room.right + 1 || box.left < room.left - 1;
}).map(e => e.outerHTML.slice(0, 120))
"""
OVERLAPPING = """
[...document.querySelectorAll('svg')].flatMap(chart => {
  const texts = [...chart.querySelectorAll('text')].map(e => [e, e.getBoundingClientRect()]);
  return texts.flatMap(([a, p], i) => texts.slice(i + 1).filter(([b, q]) =>
    p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 2 && q.top < p.bottom - 2
  ).map(([b]) => a.textContent + ' | ' + b.textContent));
})
"""
CLIPPED = """
[...document.querySelectorAll('td, th')].filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.outerHTML)
"""


@pytest.fixture(name="browser", scope="module")
def _browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture(name="address", scope="module")
def _address(made: Path, page: str) -> str:
    return (made / "runs" / "tin" / "report.html").as_uri()


@pytest.fixture(name="strange", scope="module")
def _strange(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the report of a run whose weights are drawn at random: probabilities from 1e-60 to 1."""
    return write_report(tiny_run(tmp_path_factory.mktemp("strange")), replicates=100).as_uri()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (390, True)])
def test_the_page_fits_its_window_and_keeps_to_itself(
    browser: Page, address: str, width: int, dark: bool
) -> None:
    browser.requests.clear()
    browser.open(address, width=width, dark=dark)
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(STICKING_OUT) == []
    assert browser.evaluate(OVERLAPPING) == []
    assert browser.evaluate(CLIPPED) == []
    assert browser.complaints == []
    assert set(browser.requests) == {address}


@pytest.mark.parametrize("width", [1280, 390])
def test_extreme_figures_fit_too(browser: Page, strange: str, width: int) -> None:
    browser.open(strange, width=width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(STICKING_OUT) == []
    assert browser.evaluate(OVERLAPPING) == []
    assert browser.evaluate(CLIPPED) == []


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_what_is_behind_it(browser: Page, address: str, dark: bool) -> None:
    browser.open(address, width=1280, dark=dark)

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(ink: str, paper: str) -> float:
        pair = sorted(luminance(browser.evaluate(_painted(name))) for name in (ink, paper))
        return (pair[1] + 0.05) / (pair[0] + 0.05)

    for ink, paper in (
        ("ink", "paper"),
        ("soft", "paper"),
        ("soft", "wash"),
        ("c1", "paper"),
        ("ink", "more"),
        ("ink", "less"),
    ):
        assert contrast(ink, paper) >= 4.5, (ink, paper)


def _painted(name: str) -> str:
    """Return what reads a variable of the page as rgb(...)."""
    return (
        "(() => { const e = document.createElement('i'); e.style.color = 'var(--" + name + ")'; "
        "document.body.append(e); const c = getComputedStyle(e).color; e.remove(); return c; })()"
    )


def test_a_page_that_overflows_or_calls_out_is_noticed(browser: Page, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        '<p style="width:2000px">wide</p><img src="missing.png"><script>console.error("oh")</script>'
    )
    browser.requests.clear()
    browser.open(bad.as_uri(), width=390)
    assert browser.evaluate("document.documentElement.scrollWidth") > 390
    assert browser.evaluate(STICKING_OUT)
    assert any("oh" in each for each in browser.complaints)
    assert any(each.endswith("missing.png") for each in browser.requests)
    browser.complaints.clear()
