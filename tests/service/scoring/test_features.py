"""The tables of encoded values give what the encoder gives, whatever was asked before."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.encoder import Encoder, Transform
from contract.errors import InputError
from contract.schema import Schema
from contract.vocabulary import Vocabulary
from service.errors import InferenceError
from service.scoring import features
from service.scoring.features import RequestFeatures, ValueTable
from service.scoring.scorer import probabilities

SCHEMA = Schema.from_json(
    {
        "vocabularies": {"v": {"kind": "hashed", "rows": 50}},
        "behavior": [{"name": "x", "type": "categorical", "vocabulary": "v"}],
        "ad": [{"name": "ad_id", "type": "categorical", "vocabulary": "v"}],
        "user": [
            {"name": "city", "type": "categorical", "vocabulary": "v"},
            {"name": "age", "type": "numeric", "default": 40.0},
        ],
        "context": [
            {"name": "slot", "type": "categorical", "vocabulary": "v"},
            {"name": "hour", "type": "numeric", "transform": "log1p", "default": 2.0},
            {"name": "position", "type": "numeric", "at_serving": 3},
        ],
    }
)
ENCODER = Encoder(
    SCHEMA,
    {"v": Vocabulary(SCHEMA.vocabularies["v"], np.zeros(0, dtype=np.uint64))},
    {
        "user.age": Transform("none", 40.0),
        "context.hour": Transform("log1p", 2.0),
        "context.position": Transform("none"),
    },
    history_length=4,
)
TABLES = RequestFeatures(ENCODER)  # one for all examples: what was asked before must not matter

ids = st.none() | st.integers(-5, 5) | st.sampled_from(["1", "2", "a", "b", "\u00e4"])
numbers = st.none() | st.integers(-5, 5) | st.floats(-1e6, 1e6)


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype
        np.testing.assert_array_equal(actual[name], tensor)


@given(city=ids, age=numbers, leave_out=st.booleans())
def test_profiles_are_encoded_as_the_encoder_does(city, age, leave_out):
    profile = {} if leave_out else {"city": city, "age": age}
    assert_same(TABLES.user(profile), ENCODER.users([profile]))


@given(
    slots=st.lists(ids, min_size=1, max_size=20),
    hour=numbers,
    shared_slot=ids,
    position=numbers,
)
def test_contexts_are_encoded_as_the_encoder_does(slots, hour, shared_slot, position):
    shared = {"hour": hour, "slot": shared_slot, "position": position}
    for per_candidate in ({}, {"slot": slots}, {"slot": slots, "hour": [hour] * len(slots)}):
        expected = ENCODER.context(len(slots), shared, per_candidate)
        assert_same(TABLES.context(len(slots), shared, per_candidate), expected)


def test_a_table_stays_bounded_and_right(monkeypatch):
    monkeypatch.setattr(features, "KEPT", 10)
    table = ValueTable(ENCODER, "context", SCHEMA.field("context", "slot"))
    for value in range(35):
        assert (
            table.one(value)
            == ENCODER.encode_packed("context", "slot", ENCODER.pack("context", "slot", [value]))[0]
        )
    assert len(table._known) <= 10


def test_a_value_that_has_no_key_is_refused_and_not_remembered():
    for _ in range(2):
        with pytest.raises(InputError, match=r"context\.slot"):
            TABLES.context(1, {"slot": "\u00e4" * 200}, {})


def test_probabilities_are_exact_and_never_overflow():
    logit_N = np.array([-800.0, -10.0, 0.0, 10.0, 800.0], dtype=np.float32)
    np.testing.assert_allclose(
        probabilities(logit_N), [0.0, 4.5397868702434395e-05, 0.5, 0.9999546021312976, 1.0], atol=1e-300
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_no_number_is_an_error(value):
    with pytest.raises(InferenceError):
        probabilities(np.array([0.1, value, 0.2], dtype=np.float32))
