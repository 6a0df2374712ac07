"""The schema of a Complete Journey log: vocabularies, fields, and which ad field matches which event's."""

from typing import NamedTuple


class _Exact(NamedTuple):
    min_count: int
    oov_buckets: int


VOCABULARIES: dict[str, _Exact] = {
    # A product needs a few sightings before an embedding of its own says more than its type and category do.
    "product": _Exact(5, 8),
    "product_type": _Exact(2, 2),
    "product_category": _Exact(2, 1),
    "department": _Exact(1, 1),
    "brand": _Exact(1, 1),
    "manufacturer": _Exact(5, 4),
    "store": _Exact(1, 1),
    "display": _Exact(1, 1),
    "mailer": _Exact(1, 1),
    "hour": _Exact(1, 1),
    "weekday": _Exact(1, 1),
    "age": _Exact(1, 1),
    "income": _Exact(1, 1),
    "home_ownership": _Exact(1, 1),
    "marital_status": _Exact(1, 1),
    "household_size": _Exact(1, 1),
    "household_comp": _Exact(1, 1),
    "kids_count": _Exact(1, 1),
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
    parts = [
        "# The Complete Journey: which promoted product does this household buy on this trip?",
        'actions = ["purchase"]',
        "",
        "[split]  # epoch seconds: train <= week 41, validation 42-46, test >= 47",
        f"validation_from = {validation_from}",
        f"test_from = {test_from}",
    ]
    for name, spec in VOCABULARIES.items():
        parts += ["", f"[vocabularies.{name}]", 'kind = "exact"']
        parts += [f"min_count = {spec.min_count}", f"oov_buckets = {spec.oov_buckets}"]
    parts += _field("behavior", "product_id", "product")
    for name, vocabulary in PRODUCT_FIELDS.items():
        parts += [*_field("behavior", name, vocabulary), "optional = true  # unlisted products lack it"]
    parts += _field("ad", "ad_id", "product", matches="product_id")
    for name, vocabulary in PRODUCT_FIELDS.items():
        parts += [*_field("ad", name, vocabulary, matches=name), "optional = true"]
    for name in USER_FIELDS:
        parts += _field("user", name, name)
    for name in CONTEXT_FIELDS:
        parts += _field("context", name, name)
    return "\n".join(parts) + "\n"


def _field(group: str, name: str, vocabulary: str, *, matches: str | None = None) -> list[str]:
    lines = ["", f"[[{group}]]", f'name = "{name}"', 'type = "categorical"', f'vocabulary = "{vocabulary}"']
    return lines if matches is None else [*lines, f'matches = "{matches}"']
