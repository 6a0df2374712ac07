"""Models are built from a schema and plain settings, or refused with a reason."""

import dataclasses

import pytest
import torch

from contract.age import AGE_ROWS
from contract.errors import InputError
from contract.schema import Schema
from training.models import MODEL_NAMES, build_model, default_config
from training.models.embedding import SMALL_WIDTH, FeatureEmbedding, table_widths
from training.models.features import FeatureSpec, FieldSpec


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_defaults_build_and_survive_json(name, spec):
    config = {key: list(v) if isinstance(v, tuple) else v for key, v in default_config(name).items()}

    model = build_model(name, spec, config, history_length=5)

    assert dataclasses.asdict(model.config) == default_config(name)
    assert model.history_length == 5


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("tin", {"dropout": 0.1}, "'dropout' is unknown; known: ad_bias"),
        ("tin", {"logit_scale": "big"}, "logit_scale = 'big' must be like its default, 8.0"),
        ("tin", {"logit_scale": 0}, "logit_scale must be > 0, got 0.0"),
        ("tin", {"attention_mass": 1}, "attention_mass = 1 must be like its default, True"),
        ("tin", {"temporal": "time"}, "temporal 'time' is none of both, rank"),
        ("tin", {"embedding_width": 0}, "embedding_width must be in 1..4096, got 0"),
        ("din", {"attention_hidden": [8.5]}, "attention_hidden = 8.5"),
        ("din", {"attention_hidden": []}, "attention_hidden needs one or more positive sizes"),
        ("din", {"attention_activation": "gelu"}, "activation 'gelu' is unknown; known: dice"),
        ("din", {"embedding_width": -1}, "embedding_width must be in 1..4096"),
        ("mean_pool", {"head_hidden": [8, 0]}, "head_hidden needs one or more positive sizes"),
        ("mean_pool", {"embedding_width": True}, "embedding_width = True"),
        ("mean_pool", {"embedding_width": 0}, "embedding_width must be in 1..4096"),
        ("popularity", {"prior_impressions": 0}, "prior_impressions must be > 0"),
    ],
)
def test_an_unfit_setting_is_refused(name, setting, message, spec):
    with pytest.raises(InputError) as caught:
        build_model(name, spec, setting, history_length=5)

    assert message in str(caught.value)


def test_a_schema_is_described_to_the_models():
    schema = Schema.from_json(
        {
            "actions": ["view", "buy"],
            "vocabularies": {"item": {"kind": "exact"}},
            "behavior": [
                {"name": "product", "type": "categorical", "vocabulary": "item"},
                {"name": "paid", "type": "numeric"},
            ],
            "ad": [
                {"name": "price", "type": "numeric", "matches": "paid"},
                {"name": "ad_id", "type": "categorical", "vocabulary": "item", "matches": "product"},
            ],
        }
    )

    spec = FeatureSpec.from_schema(schema, {"item": 12})

    assert [(ad.name, behavior.name) for ad, behavior in spec.pairs] == [("ad_id", "product")]
    assert [field.name for field in spec.unmatched_ad] == ["price"]
    assert [field.name for field in spec.unmatched_behavior] == ["paid"]
    assert spec.identity == FieldSpec("ad_id", "categorical", "item", "product")
    assert (spec.action_rows, spec.age_rows, spec.rows(spec.ad[1])) == (3, AGE_ROWS, 12)


def test_ads_are_told_apart_by_the_first_categorical_field_if_none_is_called_ad_id(spec):
    renamed = dataclasses.replace(spec, ad=spec.ad[1:])

    assert renamed.identity == spec.ad[1]


def test_widths_follow_use(spec):
    widths = table_widths(spec, 32)

    assert widths == {
        "item": 32,
        "category": 32,
        "channel": 32,  # behaviours alone
        "city": SMALL_WIDTH,  # behaviours and users
        "format": SMALL_WIDTH,
        "slot": SMALL_WIDTH,
    }
    assert FeatureEmbedding(spec, 32).request_width == SMALL_WIDTH + 1


def test_a_schema_that_matches_nothing_is_refused(spec):
    unmatched = dataclasses.replace(
        spec, ad=tuple(dataclasses.replace(field, matches=None) for field in spec.ad)
    )

    with pytest.raises(InputError, match="no categorical ad field matches a behavior field"):
        build_model("tin", unmatched, {}, history_length=5)


def test_popularity_needs_something_to_count(spec):
    with pytest.raises(InputError, match="popularity needs a categorical ad field"):
        build_model("popularity", dataclasses.replace(spec, ad=(spec.ad[3],)), {}, history_length=1)


def test_a_vocabulary_may_bear_any_name(spec):
    odd = dataclasses.replace(
        spec,
        user=(FieldSpec("keys", "categorical", "items"),),
        vocabulary_rows={**spec.vocabulary_rows, "items": 3},
    )

    model = build_model("tin", odd, {}, history_length=5)

    assert "user_keys" in model.inputs


def test_a_model_of_the_same_seed_is_the_same(spec):
    weights = []
    for _ in range(2):
        torch.manual_seed(11)
        weights.append(build_model("din", spec, {}, history_length=5).state_dict())

    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
