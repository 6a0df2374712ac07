"""The schema of a synthesized log."""

from typing import Final

from training.schema_text import Axis, Field, schema_text
from training.synthesize.world import DAY_S, World

ACTIONS: Final = ("view", "purchase")
_VOCABULARIES: Final = ("category", "subcategory", "ad", "region")
_FIELDS: Final = (
    Field("behavior", "category", "category"),
    Field("behavior", "subcategory", "subcategory"),
    Field("ad", "ad_id", "ad"),
    Field("ad", "category", "category", matches="category"),
    Field("ad", "subcategory", "subcategory", matches="subcategory"),
    Field("user", "region", "region"),
)


def schema_toml(world: World) -> str:
    """Return the text of `schema.toml`."""
    test_from = world.start + world.days * DAY_S - round(world.test_days * DAY_S)
    return schema_text(
        ["A synthesized log: which of the ads fits what this user has lately been up to?"],
        Axis(test_from - round(world.validation_days * DAY_S), test_from),
        actions=ACTIONS,
        vocabularies=dict.fromkeys(_VOCABULARIES),
        fields=_FIELDS,
    )
