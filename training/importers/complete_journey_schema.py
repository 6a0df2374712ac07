"""The schema of a Complete Journey log: vocabularies, fields, and which ad field matches which event's."""

from training.schema_text import Axis, Exact, Field, schema_text

VOCABULARIES: dict[str, Exact] = {
    # A product needs a few sightings before an embedding of its own says more than its type and category do.
    "product": Exact(5, 8),
    "product_type": Exact(2, 2),
    "product_category": Exact(2, 1),
    "department": Exact(1, 1),
    "brand": Exact(1, 1),
    "manufacturer": Exact(5, 4),
    "store": Exact(1, 1),
    "display": Exact(1, 1),
    "mailer": Exact(1, 1),
    "hour": Exact(1, 1),
    "weekday": Exact(1, 1),
    "age": Exact(1, 1),
    "income": Exact(1, 1),
    "home_ownership": Exact(1, 1),
    "marital_status": Exact(1, 1),
    "household_size": Exact(1, 1),
    "household_comp": Exact(1, 1),
    "kids_count": Exact(1, 1),
}
PRODUCT_FIELDS: dict[str, str] = {
    "product_type": "product_type",
    "product_category": "product_category",
    "department": "department",
    "brand": "brand",
    "manufacturer_id": "manufacturer",
}
"""Feature columns of a product and their vocabularies: fields of both the ads and the behaviours."""
USER_FIELDS = (
    "age",
    "income",
    "home_ownership",
    "marital_status",
    "household_size",
    "household_comp",
    "kids_count",
)
CONTEXT_FIELDS = ("display", "mailer", "store", "hour", "weekday")


def schema_toml(*, validation_from: int, test_from: int) -> str:
    """Return the text of `schema.toml`; the split is in epoch seconds."""
    products = PRODUCT_FIELDS.items()
    return schema_text(
        ["The Complete Journey: which promoted product does this household buy on this trip?"],
        Axis(validation_from, test_from, "train <= week 41, validation 42-46, test >= 47"),
        actions=("purchase",),
        vocabularies=VOCABULARIES,
        fields=(
            Field("behavior", "product_id", "product"),
            # Products that are bought without being listed lack all of these.
            *(Field("behavior", name, vocabulary, optional=True) for name, vocabulary in products),
            Field("ad", "ad_id", "product", matches="product_id"),
            *(Field("ad", name, vocabulary, matches=name, optional=True) for name, vocabulary in products),
            *(Field("user", name, name) for name in USER_FIELDS),
            *(Field("context", name, name) for name in CONTEXT_FIELDS),
        ),
    )
