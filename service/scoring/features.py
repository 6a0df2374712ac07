"""Encodes what a request says once or repeats: profile and context values, from a table of what was encoded before.

Encoding is elementwise, so a value that was encoded once need not be again. A request has a dozen such fields with one
value each, or a hundred equal ones; numpy's overhead per field would cost more than the graph.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from contract.encoder import Array, Encoder, Tensors
from contract.schema import Group, RawValue, SchemaField

KEPT: Final = 20_000  # values of one field; more, and the table begins anew


class ValueTable:
    """What the values of one field become.

    Args:
        encoder: of the bundle.
        group: the field's group.
        field: a field of `group`.

    """

    def __init__(self, encoder: Encoder, group: Group, field: SchemaField) -> None:
        self.dtype = np.dtype(np.int64 if field.type == "categorical" else np.float32)
        self._encode: Callable[[Sequence[RawValue]], Array] = lambda values: encoder.encode_packed(
            group, field.name, encoder.pack(group, field.name, values)
        )
        self._known: dict[RawValue, Any] = {}

    def one(self, value: RawValue) -> Any:  # noqa: ANN401 - a numpy scalar of `dtype`
        """Return the encoded value.

        Raises:
            contract.errors.InputError: the field can't hold it.

        """
        found = self._known.get(value)
        if found is None:
            found = self._encode([value])[0]
            if len(self._known) >= KEPT:
                self._known.clear()
            self._known[value] = found
        return found

    def many(self, values: Sequence[RawValue]) -> Array:
        """Return the encoded values `[n]`; raises as `one`."""
        known = self._known
        try:
            return np.array([known[value] for value in values], dtype=self.dtype)
        except KeyError:
            return np.array([self.one(value) for value in values], dtype=self.dtype)


class RequestFeatures:
    """Encodes the profile and the context of requests; the same tensors as the encoder's, by way of its tables.

    Args:
        encoder: of the bundle.

    """

    def __init__(self, encoder: Encoder) -> None:
        schema = encoder.schema
        self._user = {field.name: ValueTable(encoder, "user", field) for field in schema.user}
        self._context = {field.name: ValueTable(encoder, "context", field) for field in schema.context}
        self._constants = {
            field.name: field.at_serving for field in schema.context if field.at_serving is not None
        }

    def user(self, profile: Mapping[str, RawValue]) -> Tensors:
        """Return `user_<field>` `[1]`; an absent field is missing."""
        return {
            f"user_{name}": np.array([table.one(profile.get(name))], dtype=table.dtype)
            for name, table in self._user.items()
        }

    def context(
        self,
        count: int,
        shared: Mapping[str, RawValue],
        per_candidate: Mapping[str, Sequence[RawValue]],
    ) -> Tensors:
        """Return `context_<field>` `[N]`, N = `count`; see `Encoder.context`."""
        tensors: Tensors = {}
        for name, table in self._context.items():
            if name in self._constants:
                column = np.full(count, table.one(self._constants[name]), dtype=table.dtype)
            elif name in per_candidate:
                column = table.many(per_candidate[name])
            else:
                column = np.full(count, table.one(shared.get(name)), dtype=table.dtype)
            tensors[f"context_{name}"] = column
        return tensors
