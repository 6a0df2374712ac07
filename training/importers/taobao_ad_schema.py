"""The schema of a Taobao display-ad log: vocabularies, fields, and which ad field matches which event's."""

from typing import Final

from training.schema_text import Axis, Exact, Field, schema_text

ACTIONS: Final = ("pv", "cart", "fav", "buy")
DAY_S: Final = 86_400
FIRST_DAY: Final = 1_494_000_000
"""2017-05-06 00:00 in China, the first second of the ads' eight days."""
VALIDATION_FROM: Final = FIRST_DAY + 6 * DAY_S
TEST_FROM: Final = FIRST_DAY + 7 * DAY_S
USER_FIELDS: Final = (
    "cms_segid",
    "cms_group_id",
    "final_gender_code",
    "age_level",
    "pvalue_level",
    "shopping_level",
    "occupation",
    "new_user_class_level",
)
_VOCABULARIES: Final = {
    "ad": Exact(5, 64),
    "cate": Exact(2, 8),
    # Brands are many and most are rare: their own embedding would say less than their category does.
    "brand": Exact(5, 64),
    "campaign": Exact(5, 64),
    "customer": Exact(5, 64),
    **dict.fromkeys(USER_FIELDS, Exact(1, 1)),
    "pid": Exact(1, 1),
}
_FIELDS: Final = (
    Field("behavior", "cate", "cate"),
    Field("behavior", "brand", "brand", optional=True),
    Field("ad", "ad_id", "ad"),
    Field("ad", "cate_id", "cate", matches="cate"),
    Field("ad", "brand", "brand", matches="brand", optional=True),
    Field("ad", "campaign_id", "campaign"),
    Field("ad", "customer", "customer"),
    Field("ad", "price", optional=True),  # up to 100 million: only its logarithm is of use
    *(Field("user", name, name) for name in USER_FIELDS),
    Field("context", "pid", "pid"),
)


def schema_toml() -> str:
    """Return the text of `schema.toml`."""
    return schema_text(
        [
            "Taobao display ads: which of the ads shown on the home page does this user click?",
            "Events carry no item: an ad is compared with them by category and by brand.",
        ],
        Axis(
            VALIDATION_FROM,
            TEST_FROM,
            "days in China; 2017-05-06 to 05-11 train, 05-12 (last of the seven training days) validation, 05-13 test",
        ),
        actions=ACTIONS,
        vocabularies=_VOCABULARIES,
        fields=_FIELDS,
    )
