"""The two fields of a body that say which bundle it is for, read while it is not yet known which fields it may have."""

from typing import Any, Final, TypeAlias

import msgpack as packing
from pydantic_core import SchemaValidator
from pydantic_core import core_schema as cs

Head: TypeAlias = tuple[str | None, str | int | None]

_FIELDS: Final = {
    "model": cs.nullable_schema(cs.str_schema(strict=True)),
    "user_id": cs.nullable_schema(
        cs.union_schema([cs.str_schema(strict=True), cs.int_schema(strict=True)], mode="left_to_right")
    ),
}
_HEAD: Final = SchemaValidator(
    cs.typed_dict_schema(
        {name: cs.typed_dict_field(schema, required=False) for name, schema in _FIELDS.items()},
        extra_behavior="ignore",
    )
)


def read_head(raw: bytes, *, msgpack: bool) -> Head:
    """Return `model` and `user_id`; (None, None) of a body that is not well-formed, which its reader will refuse."""
    try:
        body: dict[str, Any] = (
            _HEAD.validate_python(packing.unpackb(raw)) if msgpack else _HEAD.validate_json(raw)
        )
    except Exception:  # noqa: BLE001 - those of msgpack and pydantic have no common base
        return None, None
    return body.get("model"), body.get("user_id")
