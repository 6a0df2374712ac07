"""The schema of the logs that benchmarks make: an item and its category, both matched by the ad."""

_FIELDS = """
[vocabularies.item]
kind = "exact"
[vocabularies.category]
kind = "exact"
[[behavior]]
name = "item_id"
type = "categorical"
vocabulary = "item"
[[behavior]]
name = "category"
type = "categorical"
vocabulary = "category"
[[ad]]
name = "ad_id"
type = "categorical"
vocabulary = "item"
matches = "item_id"
[[ad]]
name = "category"
type = "categorical"
vocabulary = "category"
matches = "category"
"""


def item_schema(*, validation_from: int, test_from: int) -> str:
    """Return the text of `schema.toml`; the split is in epoch seconds."""
    return f"[split]\nvalidation_from = {validation_from}\ntest_from = {test_from}\n{_FIELDS}"
