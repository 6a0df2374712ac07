"""The body of `POST /score`: its rules, made for the fields of one bundle, and its reading in one pass.

The rules are a pydantic-core schema: it is what validates, what names the place of a mistake, and what `/docs` shows.
Both forms of the candidates are accepted: a list of ids and objects, or an object of columns.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgpack
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import CoreConfig, CoreSchema, SchemaValidator, ValidationError
from pydantic_core import core_schema as cs

from contract.keys import MAX_ID_BYTES
from contract.schema import LARGEST_NUMBER, Schema, SchemaField
from service.api.complaints import complaints_of
from service.errors import InvalidRequestError, RequestSyntaxError

Body: TypeAlias = dict[str, Any]

MAX_DEADLINE_MS: Final = 600_000.0
MAX_TEXT: Final = 256


class BodyReader:
    """Reads bodies for one schema.

    Args:
        schema: whose ad and context fields a request may name.
        max_candidates: most candidates of one request.

    """

    def __init__(self, schema: Schema, *, max_candidates: int) -> None:
        self._schema = _body(schema, max_candidates)
        self._validator = SchemaValidator(self._schema, CoreConfig(cache_strings="keys"))

    def read_json(self, raw: bytes) -> Body:
        """Return the validated body.

        Raises:
            RequestSyntaxError: it is not JSON.
            InvalidRequestError: it breaks the rules; says where.

        """
        try:
            body: Body = self._validator.validate_json(raw)
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)
            if details[0]["type"] == "json_invalid":
                raise RequestSyntaxError(f"the body is not JSON: {details[0]['ctx']['error']}") from error
            raise InvalidRequestError(complaints_of(details)) from error
        return body

    def read_msgpack(self, raw: bytes) -> Body:
        """Return the validated body; raises as `read_json`."""
        try:
            data = msgpack.unpackb(raw)
        except Exception as error:  # its exceptions have no common base
            raise RequestSyntaxError(
                f"the body is not msgpack: {str(error) or type(error).__name__}"
            ) from error
        try:
            body: Body = self._validator.validate_python(data)
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)
            raise InvalidRequestError(complaints_of(details)) from error
        return body

    def json_schema(self) -> dict[str, Any]:
        """Return the rules as JSON Schema, for OpenAPI."""
        return GenerateJsonSchema().generate(self._schema)


def _body(schema: Schema, max_candidates: int) -> CoreSchema:
    context = _features(schema.context)
    ad = _features(_overridable(schema))
    return _object(
        {
            "user_id": cs.nullable_schema(_id()),
            "candidates": _candidates(schema, context, ad, max_candidates),
        },
        {
            "context": context,
            "timestamp": cs.nullable_schema(cs.int_schema(strict=True)),
            "request_id": cs.nullable_schema(_id(most=2**63 - 1)),
            "model": cs.nullable_schema(cs.str_schema(strict=True, max_length=MAX_TEXT)),
            "deadline_ms": cs.nullable_schema(
                cs.float_schema(strict=True, gt=0, le=MAX_DEADLINE_MS, allow_inf_nan=False)
            ),
            "explain": cs.nullable_schema(cs.int_schema(strict=True, ge=0)),
        },
    )


def _candidates(schema: Schema, context: CoreSchema, ad: CoreSchema, most: int) -> CoreSchema:
    row = cs.union_schema(
        [
            (_text(), "@text"),
            (cs.int_schema(strict=True), "@integer"),
            (_object({"ad_id": _id()}, {"context": context, "ad": ad}), "@object"),
        ],
        mode="left_to_right",
    )
    columns = _object(
        {"ad_id": cs.list_schema(_id(), strict=True, min_length=1, max_length=most)},
        {"context": _columns(schema.context, most), "ad": _columns(_overridable(schema), most)},
    )
    return cs.union_schema(
        [
            (cs.list_schema(row, strict=True, min_length=1, max_length=most), "@list"),
            (columns, "@columns"),
        ],
        mode="left_to_right",
    )


def _overridable(schema: Schema) -> tuple[SchemaField, ...]:
    """Return the ad fields that a request may give; where `ad_id` is one, it is the candidate's own id."""
    return tuple(field for field in schema.ad if field.name != "ad_id")


def _features(fields: tuple[SchemaField, ...]) -> CoreSchema:
    return _object({}, {field.name: _value(field) for field in fields})


def _columns(fields: tuple[SchemaField, ...], most: int) -> CoreSchema:
    return _object(
        {}, {field.name: cs.list_schema(_value(field), strict=True, max_length=most) for field in fields}
    )


def _value(field: SchemaField) -> CoreSchema:
    if field.at_serving is not None:
        return cs.any_schema()
    if field.type == "categorical":
        return cs.nullable_schema(_id())
    return cs.nullable_schema(
        cs.float_schema(strict=True, allow_inf_nan=False, ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)
    )


def _id(most: int | None = None) -> CoreSchema:
    integer = cs.int_schema(strict=True, le=most, ge=-most if most else None)
    return cs.union_schema([(_text(), "@text"), (integer, "@integer")], mode="left_to_right")


def _text() -> CoreSchema:
    return cs.str_schema(strict=True, min_length=1, max_length=MAX_ID_BYTES)


def _object(required: Mapping[str, CoreSchema], optional: Mapping[str, CoreSchema]) -> CoreSchema:
    fields = {name: cs.typed_dict_field(schema, required=True) for name, schema in required.items()}
    fields |= {name: cs.typed_dict_field(schema, required=False) for name, schema in optional.items()}
    return cs.typed_dict_schema(fields, extra_behavior="forbid", strict=True)
