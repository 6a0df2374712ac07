"""The schema of a KuaiRand log: vocabularies, fields, and which ad field matches which event's."""

from typing import Final

from training.schema_text import Axis, Exact, Field, schema_text

ACTIONS: Final = ("click", "long_view")
DAY_S: Final = 86_400
FIRST_DAY: Final = 1_649_347_200
"""2022-04-08 00:00 in China; the log has 31 days."""
VALIDATION_FROM: Final = FIRST_DAY + 27 * DAY_S
TEST_FROM: Final = FIRST_DAY + 29 * DAY_S
_VOCABULARIES: Final = {
    "video": Exact(5, 256),  # most videos are seen once or twice
    "author": Exact(5, 256),
    "tag": Exact(1, 1),
    "video_type": Exact(1, 1),
    "upload_type": Exact(1, 1),
    "tab": Exact(1, 1),
}
_FIELDS: Final = (
    Field("behavior", "video_id", "video"),
    Field("behavior", "author_id", "author", optional=True),
    Field("behavior", "tag", "tag", optional=True),
    Field("ad", "ad_id", "video", matches="video_id"),
    Field("ad", "author_id", "author", matches="author_id", optional=True),
    Field("ad", "tag", "tag", matches="tag", optional=True),
    Field("ad", "video_type", "video_type", optional=True),
    Field("ad", "upload_type", "upload_type", optional=True),
    Field("ad", "duration_s", optional=True),
    Field("context", "tab", "tab"),
)


def schema_toml() -> str:
    """Return the text of `schema.toml`."""
    return schema_text(
        ["KuaiRand: does this user click the video that the app shows?"],
        Axis(
            VALIDATION_FROM,
            TEST_FROM,
            "days in China; 2022-04-08 to 05-04 train, 05-05 and 05-06 validation, 05-07 and 05-08 test",
        ),
        actions=ACTIONS,
        vocabularies=_VOCABULARIES,
        fields=_FIELDS,
    )
