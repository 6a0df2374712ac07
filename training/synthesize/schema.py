"""The schema of a synthesized log."""

import json
from typing import Final

from training.synthesize.world import DAY_S, World

ACTIONS: Final = ("view", "purchase")
_FIELDS: Final = (
    ("behavior", "category", "category", None),
    ("behavior", "subcategory", "subcategory", None),
    ("ad", "ad_id", "ad", None),
    ("ad", "category", "category", "category"),
    ("ad", "subcategory", "subcategory", "subcategory"),
    ("user", "region", "region", None),
)
"""Group, name, vocabulary, the behaviour field it matches."""


def schema_toml(world: World) -> str:
    """Return the text of `schema.toml`."""
    end = world.start + world.days * DAY_S
    test_from = end - round(world.test_days * DAY_S)
    parts = [
        "# A synthesized log: which of the ads fits what this user has lately been up to?",
        f"actions = {json.dumps(ACTIONS)}",
        "",
        "[split]  # epoch seconds",
        f"validation_from = {test_from - round(world.validation_days * DAY_S)}",
        f"test_from = {test_from}",
    ]
    for vocabulary in dict.fromkeys(vocabulary for _, _, vocabulary, _ in _FIELDS):
        parts += ["", f"[vocabularies.{vocabulary}]", 'kind = "exact"']
    for group, name, vocabulary, matches in _FIELDS:
        parts += ["", f"[[{group}]]", f'name = "{name}"', 'type = "categorical"']
        parts += [f'vocabulary = "{vocabulary}"']
        parts += [] if matches is None else [f'matches = "{matches}"']
    return "\n".join(parts) + "\n"
