"""Turns pydantic's list of errors into complaints: one per mistake, each with a place a caller can find.

A union reports the errors of all its branches; its branches are labelled `@name` in our schemas, so that the ones
which were never meant can be left out.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

from service.errors import Complaint

Path: TypeAlias = tuple[str | int, ...]
Problem: TypeAlias = tuple[Path, str, str]  # where in the labelled schema, pydantic's type, its message

MOST: Final = 20  # complaints in one answer
_WRONG_KIND: Final = frozenset(
    {"string_type", "int_type", "int_from_float", "float_type", "list_type", "dict_type", "string_unicode"}
)
_KINDS: Final = {
    "@text": "a string",
    "@integer": "an integer",
    "@object": "an object with ad_id",
    "@list": "a list of ids and objects",
    "@columns": "an object of columns",
}


def complaints_of(details: Iterable[Any]) -> list[Complaint]:
    """Return what is wrong, at most `MOST` things; `details` are those of `ValidationError.errors()`."""
    problems: list[Problem] = [(tuple(item["loc"]), item["type"], item["msg"]) for item in details]
    return [
        Complaint(where(path), _message(kind, message))
        for path, kind, message in _resolve(problems, 0)[:MOST]
    ]


def where(path: Sequence[str | int]) -> str:
    """Return a place in a body as text: `candidates[3].ad.price`; the body itself is `body`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif not step.startswith("@"):
            text += f".{step}" if text else step
    return text or "body"


def _resolve(problems: list[Problem], depth: int) -> list[Problem]:
    """Return the problems with every union below `depth` reduced to the branch that was meant."""
    resolved: list[Problem] = []
    for group in _by_step(problems, depth):
        if len(group[0][0]) <= depth:
            resolved += group
        elif str(group[0][0][depth]).startswith("@"):
            resolved += _of_union(group, depth)
        else:
            resolved += _resolve(group, depth + 1)
    return resolved


def _by_step(problems: list[Problem], depth: int) -> list[list[Problem]]:
    """Group the problems by their step at `depth`; all branches of a union together."""
    groups: dict[object, list[Problem]] = {}
    for problem in problems:
        step = problem[0][depth] if len(problem[0]) > depth else None
        groups.setdefault("@" if str(step).startswith("@") else step, []).append(problem)
    return list(groups.values())


def _of_union(problems: list[Problem], depth: int) -> list[Problem]:
    branches: dict[str, list[Problem]] = {}
    for problem in problems:
        branches.setdefault(str(problem[0][depth]), []).append(problem)
    meant = [branch for branch in branches.values() if not _is_wrong_kind(branch, depth)]
    if meant:
        return _resolve(meant[-1], depth + 1)
    kinds = " or ".join(_KINDS[label] for label in branches)
    return [(problems[0][0][:depth], "union", f"should be {kinds}")]


def _is_wrong_kind(branch: list[Problem], depth: int) -> bool:
    return any(len(path) == depth + 1 and kind in _WRONG_KIND for path, kind, _ in branch)


def _message(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "no such field"
    if kind == "missing":
        return "is required"
    return message.removeprefix("Input ").replace("Dictionary should", "should", 1)
