"""What a schema may say."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from contract.errors import SchemaError
from contract.schema import Schema

TOML = """
actions = ["view", "buy"]
[split]
validation_from = 10
test_from = 20
[train]
history_length = 300
[vocabularies.product]
kind = "exact"
min_count = 5
oov_buckets = 8
[vocabularies.mailer]
kind = "hashed"
rows = 16
[[behavior]]
name = "product_id"
type = "categorical"
vocabulary = "product"
[[ad]]
name = "ad_id"
type = "categorical"
vocabulary = "product"
matches = "product_id"
[[ad]]
name = "price"
type = "numeric"
transform = "log1p"
[[context]]
name = "mailer"
type = "categorical"
vocabulary = "mailer"
at_serving = "none"
"""


@pytest.fixture(name="schema")
def _schema(tmp_path: Path) -> Schema:
    (tmp_path / "schema.toml").write_text(TOML)
    return Schema.load(tmp_path / "schema.toml")


def test_toml_and_json_carry_the_same_keys(schema: Schema) -> None:
    assert Schema.from_json(schema.to_json()) == schema
    assert schema.to_json()["behavior"] == [
        {"name": "product_id", "type": "categorical", "vocabulary": "product"},
    ]


def test_the_fingerprint_follows_the_encoding_and_nothing_else(schema: Schema) -> None:
    data = schema.to_json()
    data["split"] = {"validation_from": 1, "test_from": 2}
    data["train"] = {}
    assert Schema.from_json(data).fingerprint() == schema.fingerprint()
    data["vocabularies"]["product"]["min_count"] = 6
    assert Schema.from_json(data).fingerprint() != schema.fingerprint()


def test_without_actions_there_is_the_one_action_event(schema: Schema) -> None:
    data = schema.to_json()
    del data["actions"]
    assert Schema.from_json(data).actions == ("event",)


def _spoil(data: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    spoiled = deepcopy(data)
    *parents, last = path.split(".")
    place: Any = spoiled
    for part in parents:
        place = place[int(part)] if part.isdigit() else place[part]
    place[int(last) if last.isdigit() else last] = value
    return spoiled


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("behavior.0.vocabulary", "brand", "vocabularies.brand"),
        ("behavior.0.name", "timestamp", "reserved"),
        ("behavior.0.name", "product id", "pattern"),
        ("behavior", [], "behavior"),
        ("ad.0.matches", "brand", "no behavior field"),
        ("ad.1.matches", "product_id", "another type"),
        ("ad.1.vocabulary", "product", "no vocabulary"),
        ("ad.0.at_serving", 1, "context"),
        ("context.0.transform", "log1p", "numeric"),
        ("actions", ["a", "a"], "actions"),
        ("actions", [], "actions"),
        ("split", {"validation_from": 5, "test_from": 5}, "not before"),
        ("vocabularies.mailer.rows", None, "rows"),
        ("vocabularies.mailer.min_count", 2, "exact"),
        ("vocabularies.product.kind", "fuzzy", "kind"),
        ("extra", 1, "extra"),
        ("split", {"validation_from": 5, "test_from": 1514300000000}, "split.test_from"),
        ("vocabularies.product.min_count", True, "min_count"),
        ("vocabularies.product.oov_buckets", 10**13, "oov_buckets"),
        ("ad.0.optional", "yes", "optional"),
        ("context.0.at_serving", "", "empty"),
        ("context.0.at_serving", 1.5, "1.5"),
        ("context.0.at_serving", True, "neither a string nor a number"),
        ("context.0.at_serving", float("nan"), "not finite"),
    ],
)
def test_a_contradiction_is_refused_in_one_line(
    schema: Schema, path: str, value: object, message: str
) -> None:
    with pytest.raises(SchemaError, match=message) as refusal:
        Schema.from_json(_spoil(schema.to_json(), path, value))
    assert "\n" not in str(refusal.value)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"schema\.toml: no such file"):
        Schema.load(tmp_path / "schema.toml")
    (tmp_path / "schema.toml").write_text("= 1")
    with pytest.raises(SchemaError, match=r"schema\.toml: not readable as TOML"):
        Schema.load(tmp_path / "schema.toml")


def test_a_file_of_brackets_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "schema.toml"
    path.write_text("a = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(SchemaError, match="not readable as TOML"):
        Schema.load(path)


def test_a_byte_order_mark_is_no_matter(schema: Schema, tmp_path: Path) -> None:
    path = tmp_path / "schema.toml"
    path.write_bytes(b"\xef\xbb\xbf" + TOML.encode())
    assert Schema.load(path) == schema
