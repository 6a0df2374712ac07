"""The one interface of all models, and how their configs are read.

U requests, N candidate ads, L behaviours.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn

from contract.errors import InputError

ConfigT = TypeVar("ConfigT")

LARGEST_WIDTH: Final = 4096


@dataclass
class LossTerms:
    """What a model may add to the click loss of a training step: it reads the first three and fills in `terms`."""

    generator: torch.Generator
    """Of all the step's noise and draws, on the host; another for every step and process."""
    valid: Tensor
    """`[U, N]` bool, false where a request has fewer than N candidates."""
    user: Tensor
    """`[U]` int64, equal for requests of one user."""
    terms: dict[str, Tensor] = field(default_factory=dict)
    """Scalars by name, each times its weight already: means over pairs, so that batches of any size compare."""


class CtrModel(nn.Module, ABC):
    """A click model: inputs of the design's section 5 in, one uncalibrated log-odds per candidate out."""

    inputs: tuple[str, ...]
    """Names of exactly the tensors `forward` takes."""
    history_length: int
    """Largest L the model was built for; 0 if it takes no history."""

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor], losses: LossTerms | None = None) -> Tensor:
        """Return `logit_UN`, float32, for the tensors named in `self.inputs`.

        A training step gives `losses`; a model without terms of its own ignores it.
        """

    def behavior_weights(self, inputs: Mapping[str, Tensor]) -> Tensor | None:  # noqa: ARG002 - for those that have some
        """Return `weight_UNL`, float32: what each behaviour counted for each candidate, 0 where padded.

        None: the model weighs no behaviours, and no explanations can be given.
        """
        return None

    def routing_gaps(self, inputs: Mapping[str, Tensor]) -> Tensor | None:  # noqa: ARG002 - for those that pick
        """Return `gap_UN`, float32: by how little scores would have to change for the model to pick otherwise.

        None: the model picks nothing, by no argmax and no threshold, so rounding moves its log-odds by little.
        """
        return None


def read_config(config_type: type[ConfigT], values: Mapping[str, object]) -> ConfigT:
    """Build a config dataclass from plain values; lists become tuples, whole numbers pass as floats.

    Raises:
        InputError: an unknown key, or a value that doesn't fit its field.

    """
    defaults = {field.name: field.default for field in dataclasses.fields(config_type)}  # type: ignore[arg-type]
    for name in values:
        if name not in defaults:
            raise InputError(f"model setting {name!r} is unknown; known: {', '.join(sorted(defaults))}")
    return config_type(**{name: _convert(name, value, defaults[name]) for name, value in values.items()})


def require(condition: bool, message: str) -> None:  # noqa: FBT001 - reads as an assertion for users
    """Raise InputError with `message` unless `condition` holds."""
    if not condition:
        raise InputError(message)


def require_width(embedding_width: int) -> None:
    """Raise InputError unless a vector of so many numbers makes sense."""
    fits = 0 < embedding_width <= LARGEST_WIDTH
    require(fits, f"embedding_width must be in 1..{LARGEST_WIDTH}, got {embedding_width}")


def _convert(name: str, value: object, default: object) -> Any:  # noqa: ANN401 - the field's own type
    """Return `value` as the type of the field's default."""
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        return tuple(_convert(name, part, 1) for part in value)
    if isinstance(default, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if type(value) is type(default):
        return value
    raise InputError(f"model setting {name} = {value!r} must be like its default, {default!r}")
