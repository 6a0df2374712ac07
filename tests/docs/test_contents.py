"""Examples in the documentation are valid, and its tables are those of the code."""

import json
import re
import tomllib

import pytest

from contract.manifest import Manifest
from contract.schema import Schema
from service.api.body import BodyReader
from service.api.openapi import score_responses
from service.api.problems import STATUS
from service.layout import CHANGES, META, Layout
from service.metrics import ROUTES
from tests.docs.pages import PAGES, names_in, page
from training.importers.complete_journey_schema import schema_toml
from training.models import MODEL_NAMES, default_config
from training.settings import DEFAULT_HISTORY_LENGTH, TrainSettings

JOURNEY = Schema.from_json(tomllib.loads(schema_toml(validation_from=1, test_from=2)))
HTTP, LOG, STORE = page("docs/http.md"), page("docs/log.md"), page("docs/store.md")


@pytest.mark.parametrize("where", PAGES, ids=str)
def test_toml_and_json_parse(where):
    for text in where.fences("toml"):
        tomllib.loads(text)
    for text in where.fences("json"):
        json.loads(text)


def test_the_schema_of_the_log_page_is_one():
    (example,) = [tomllib.loads(text) for text in LOG.fences("toml")]
    schema = Schema.from_json(example)
    assert schema.actions == ("view", "purchase")
    TrainSettings(history_length=1, **{k: v for k, v in schema.train.items() if k != "embedding_width"})


def test_every_key_of_a_schema_is_explained():
    keys = {*Schema.model_fields, *Schema.model_fields["behavior"].annotation.__args__[0].model_fields}
    keys |= {"kind", "min_count", "oov_buckets", "rows", "validation_from", "test_from"}
    named = set(re.findall(r"\w+", " ".join(LOG.spans)))
    assert keys <= named


def test_requests_are_accepted_by_the_service():
    reader = BodyReader(JOURNEY, max_candidates=5000)
    examples = [text for text in HTTP.fences("json") if "candidates" in json.loads(text)]
    examples += re.findall(r" -d '(\{.*?\})'$", page("README.md").text, re.DOTALL | re.MULTILINE)
    assert len(examples) == 3
    for text in examples:
        reader.read_json(text.encode())


def test_an_answer_has_the_documented_fields():
    answer = next(json.loads(text) for text in HTTP.fences("json") if "scores" in json.loads(text))
    schema = score_responses()[200]["content"]["application/json"]["schema"]
    assert list(answer) == schema["required"]
    assert set(answer["history"]) == set(schema["properties"]["history"]["properties"])


def test_every_refusal_has_its_status_and_cause():
    rows = {(int(status), name.strip("`")) for status, name, _ in HTTP.table("Refusals")}
    known = {(status, f"urn:longsight:{name}") for status, name in STATUS.values()}
    assert {row for row in rows if row[1] != "about:blank"} == known


def test_every_route_is_listed():
    listed = {name.split()[-1] for row in HTTP.table("HTTP") for name in names_in(row[0])}
    assert listed == {*ROUTES, "/v1/score"} - {"other"}


def test_every_key_of_the_manifest_is_explained():
    fields = {field.alias or name for name, field in Manifest.model_fields.items()}
    assert {
        name for row in page("docs/bundle.md").table("manifest.json") for name in names_in(row[0])
    } == fields


def test_every_name_in_redis_is_listed():
    pattern = Layout(0).history(0).replace(":0:", ":<layout>:").replace("0" * 16, "<user key>")
    listed = {name for row in STORE.table("The store") for name in names_in(row[0])}
    assert {META, CHANGES, pattern, pattern[:-1] + "p"} < listed
    assert len(listed) == 5


def test_every_setting_of_training_is_listed_with_its_default():
    rows = {row[0].strip("`"): row[1] for row in page("docs/training.md").table("Settings")}
    lengths = rows.pop("history_length")
    assert {model: int(re.search(rf"{model}\D* (\d+)", lengths)[1]) for model in MODEL_NAMES} == dict(
        DEFAULT_HISTORY_LENGTH
    )
    fields = TrainSettings.model_fields
    assert {name: json.loads(default) for name, default in rows.items()} == {
        name: field.default for name, field in fields.items() if name != "history_length"
    }


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_every_option_of_a_model_is_listed_with_its_default(model):
    rows = {row[0].strip("`"): json.loads(row[1]) for row in page("docs/models.md").table(f"`{model}`")}
    assert rows == json.loads(json.dumps(default_config(model)))
