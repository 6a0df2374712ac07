"""Raw requests become tensors, alike alone and in company."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import keys
from contract.age import age_buckets
from contract.encoder import Encoder, Transform
from contract.errors import InputError, SchemaError
from contract.records import Records, empty_records
from contract.schema import Schema
from contract.vocabulary import Vocabulary

L = 6
SCHEMA = Schema.from_json(
    {
        "actions": ["view", "buy"],
        "vocabularies": {
            "item": {"kind": "exact", "oov_buckets": 3},
            "mailer": {"kind": "hashed", "rows": 7},
        },
        "behavior": [
            {"name": "item_id", "type": "categorical", "vocabulary": "item"},
            {"name": "price", "type": "numeric", "transform": "log1p"},
        ],
        "ad": [
            {"name": "ad_id", "type": "categorical", "vocabulary": "item", "matches": "item_id"},
            {"name": "cost", "type": "numeric", "transform": "standard", "default": 2.0},
        ],
        "user": [{"name": "age", "type": "numeric", "default": 30.0}],
        "context": [
            {"name": "mailer", "type": "categorical", "vocabulary": "mailer"},
            {"name": "position", "type": "numeric", "at_serving": 1},
        ],
    }
)
KNOWN = np.sort(keys.keys(range(20)))
ENCODER = Encoder(
    SCHEMA,
    {
        "item": Vocabulary(SCHEMA.vocabularies["item"], KNOWN),
        "mailer": Vocabulary(SCHEMA.vocabularies["mailer"], np.zeros(0, dtype=np.uint64)),
    },
    {
        "behavior.price": Transform("log1p"),
        "ad.cost": Transform("standard", 2.0, 1.0, 4.0),
        "user.age": Transform("none", 30.0),
        "context.position": Transform(),
    },
    history_length=L,
)

event = st.tuples(st.integers(0, 30), st.floats(0, 1e6, width=32), st.integers(1, 2))
history = st.lists(event, max_size=10)


def _records(events: list[tuple[int, float, int]]) -> Records:
    records = empty_records(SCHEMA, len(events))
    for second, (item, price, action) in enumerate(events):
        records[second] = (keys.key(item), price, 100 + second, action, b"")
    return records


@given(st.lists(history, min_size=1, max_size=4))
def test_a_history_is_encoded_alike_alone_and_padded_among_others(histories: list[Any]) -> None:
    packed = [_records(events) for events in histories]
    together = ENCODER.history(packed, [1000] * len(packed))
    for row, records in enumerate(packed):
        alone = ENCODER.history([records], [1000])
        length = alone["history_mask"].shape[1]
        for name, values in alone.items():
            assert np.array_equal(together[name][row, -length:], values[0])
            assert not together[name][row, :-length].any()


@given(history)
def test_the_newest_l_events_stand_right_aligned_with_their_ages(events: list[Any]) -> None:
    tensors = ENCODER.history([_records(events)], [1000])
    newest = events[-L:]
    assert tensors["history_mask"].sum() == len(newest)
    if newest:
        first = len(events) - len(newest)
        ages = [1000 - (100 + first + i) for i in range(len(newest))]
        assert tensors["history_age"][0].tolist() == [age.bit_length() for age in ages]
        assert tensors["history_action"][0].tolist() == [action for *_, action in newest]
        assert (
            tensors["history_item_id"][0].tolist()
            == ENCODER.ads([{"ad_id": i} for i, *_ in newest])["ad_ad_id"].tolist()
        )
    else:
        assert tensors["history_mask"].shape == (1, 1)


@given(st.integers(1, 2**32 - 1))
def test_an_age_bucket_is_the_bit_length(age: int) -> None:
    assert age_buckets(np.array([age]))[0] == age.bit_length()


def test_an_age_of_zero_or_less_counts_as_one_second() -> None:
    assert age_buckets(np.array([0, -5, 1])).tolist() == [1, 1, 1]


@given(st.permutations(range(8)))
def test_the_order_of_candidates_changes_nothing(order: list[int]) -> None:
    ads = [{"ad_id": index * 4, "cost": float(index)} for index in range(8)]
    straight = ENCODER.ads(ads)
    shuffled = ENCODER.ads([ads[index] for index in order])
    for name, values in straight.items():
        assert np.array_equal(values[order], shuffled[name])


def test_a_missing_field_is_row_0_or_the_default() -> None:
    assert ENCODER.ads([{}])["ad_ad_id"].tolist() == [0]
    assert ENCODER.ads([{}])["ad_cost"].tolist() == [0.25]
    assert ENCODER.users([{"age": None}])["user_age"].tolist() == [30.0]


def test_the_candidates_context_wins_over_the_requests() -> None:
    encoded = ENCODER.context(2, {"mailer": "A"}, {"mailer": ["B", None]})["context_mailer"]
    alone = ENCODER.context(1, {"mailer": "B"}, {})["context_mailer"]
    assert encoded.tolist() == [int(alone[0]), 0]


def test_a_field_known_in_training_only_is_its_constant_at_serving() -> None:
    assert ENCODER.context(2, {"position": 9}, {"position": [7, 8]})["context_position"].tolist() == [1, 1]
    training = ENCODER.context(2, {"position": 9}, {"position": [7, 8]}, serving=False)
    assert training["context_position"].tolist() == [7, 8]


@pytest.mark.parametrize("value", ["7", True, float("inf"), float("nan"), 1e39, 10**400])
def test_a_number_that_is_none_is_refused_with_its_field(value: Any) -> None:
    with pytest.raises(InputError, match=r"ad\.cost"):
        ENCODER.ads([{"cost": value}])


def test_a_categorical_field_refuses_a_float() -> None:
    with pytest.raises(InputError, match=r"ad\.ad_id.*1\.5"):
        ENCODER.ads([{"ad_id": 1.5}])


def test_an_encoder_without_a_vocabulary_or_transform_of_its_schema_is_refused() -> None:
    with pytest.raises(SchemaError, match="vocabulary 'item'"):
        Encoder(SCHEMA, {}, {}, history_length=L)
    with pytest.raises(SchemaError, match=r"ad\.cost"):
        Encoder(SCHEMA, ENCODER.vocabularies, {}, history_length=L)


def test_a_standard_transform_is_fitted_on_what_is_known() -> None:
    field = SCHEMA.field("ad", "cost")
    fitted = Transform.fit(field, np.array([1.0, 3.0, np.nan]))
    assert (fitted.mean, fitted.deviation, fitted.default) == (2.0, 1.0, 2.0)
    assert Transform.fit(field, np.array([5.0, 5.0])).deviation == 1.0
    assert np.full(100, 0.1).std() > 0  # of equal values, by rounding
    assert Transform.fit(field, np.full(100, 0.1)).deviation == 1.0


def test_behaviours_may_be_numbers_alone() -> None:
    data = SCHEMA.to_json()
    data["behavior"] = data["behavior"][1:]
    del data["ad"][0]["matches"]
    schema = Schema.from_json(data)
    encoder = Encoder(schema, ENCODER.vocabularies, ENCODER.transforms, history_length=L)
    records = empty_records(schema, 2)
    records["price"] = [0.0, 1.0]
    assert encoder.history([records], [9])["history_price"].tolist() == [[0.0, float(np.float32(np.log(2)))]]
