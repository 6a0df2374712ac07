"""Reads the documentation: pages, fenced blocks, code spans, links, tables. Knows nothing of what they say."""

import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^```([\w-]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_COMMENT = re.compile(r"\s+# .*$", re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    def __str__(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def prose(self) -> str:
        """The text without its fenced blocks."""
        return _FENCE.sub("", self.text)

    @cached_property
    def spans(self) -> list[str]:
        return _SPAN.findall(self.prose)

    @cached_property
    def links(self) -> list[str]:
        return _LINK.findall(self.prose)

    @cached_property
    def anchors(self) -> set[str]:
        """Return what `#...` may name, as GitHub derives it from headings."""
        return {
            re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
            for heading in _HEADING.findall(self.prose)
        }

    def fences(self, language: str) -> list[str]:
        return [body for name, body in _FENCE.findall(self.text) if name == language]

    def commands(self, program: str) -> list[list[str]]:
        """Return the words of every fenced shell line that runs `program`; comments are left out."""
        lines = [
            line.removeprefix("$ ")
            for body in self.fences("bash")
            for line in _COMMENT.sub("", body).replace("\\\n", " ").splitlines()
        ]
        return [shlex.split(line) for line in lines if line.startswith(f"{program} ")]

    def table(self, heading: str) -> list[list[str]]:
        """Return the cells of the first table under a heading, its head left out."""
        start = re.search(rf"^#+ {re.escape(heading)}$", self.text, re.MULTILINE)
        assert start is not None, f"{self} has no heading {heading!r}"
        section = re.split(r"^#+ ", self.text[start.end() :], maxsplit=1, flags=re.MULTILINE)[0]
        rows = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)[0].splitlines()
        return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows[2:]]


PAGES = [
    Page(path)
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    )
]


def page(name: str) -> Page:
    """Return one page by its path in the repository."""
    return next(each for each in PAGES if str(each) == name)


def names_in(cell: str) -> list[str]:
    """Return the code spans of a table's cell."""
    return _SPAN.findall(cell)
