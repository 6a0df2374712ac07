"""What the documentation points to is there."""

import re
import tomllib

import pytest

from tests.docs.pages import PAGES, ROOT, Page

ROOMS = (
    "benchmarks",
    "cli",
    "contract",
    "deploy",
    "docker",
    "docs",
    "export",
    "loadtest",
    "service",
    "tests",
)
PATH = re.compile(rf"(?<![\w/.*-])(?:\.ci|training|{'|'.join(ROOMS)})(?:/[\w.-]*\w)+(?![\w*<])")


@pytest.mark.parametrize("where", PAGES, ids=str)
def test_a_relative_link_leads_somewhere(where):
    for link in where.links:
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = (where.path.parent / target).resolve() if target else where.path
        assert path.exists(), f"{where} links to {link}"
        if anchor:
            assert anchor in Page(path).anchors, (
                f"{where} links to {link}; it has {sorted(Page(path).anchors)}"
            )


@pytest.mark.parametrize("where", [page for page in PAGES if str(page) != "CHANGELOG.md"], ids=str)
def test_a_file_that_is_named_exists(where):
    code = [*where.spans, *where.fences("bash")]
    missing = [name for text in code for name in PATH.findall(text) if not (ROOT / name).exists()]
    assert not missing, f"{where} names {missing}"


def test_every_page_can_be_reached_from_the_readme():
    linked = {
        (where.path.parent / link.partition("#")[0]).resolve()
        for where in PAGES
        for link in where.links
        if "://" not in link
    }
    pages = {
        page.path for page in PAGES if str(page) != "README.md" and page.path.parent.name != "benchmarks"
    }
    assert pages <= linked


@pytest.mark.parametrize("where", PAGES, ids=str)
def test_an_extra_exists(where):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"(?:longsight|'\.)\[([\w,-]+)\]", where.text)
    assert {name for group in named for name in group.split(",")} <= set(extras)
