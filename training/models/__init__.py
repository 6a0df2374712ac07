"""The click models, by name, behind one interface."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from training.models.base import CtrModel, read_config
from training.models.diffumin import Diffumin, DiffuminConfig
from training.models.din import Din, DinConfig
from training.models.features import FeatureSpec
from training.models.mean_pool import MeanPool, MeanPoolConfig
from training.models.popularity import Popularity, PopularityConfig
from training.models.tin import Tin, TinConfig

__all__ = ["MODEL_NAMES", "CtrModel", "build_model", "default_config", "resolve_config"]

_MODELS: Final[dict[str, tuple[Any, Any]]] = {
    "din": (Din, DinConfig),
    "tin": (Tin, TinConfig),
    "diffumin": (Diffumin, DiffuminConfig),
    "mean_pool": (MeanPool, MeanPoolConfig),
    "popularity": (Popularity, PopularityConfig),
}
MODEL_NAMES: Final = tuple(_MODELS)


def build_model(
    name: str, features: FeatureSpec, config: Mapping[str, object], *, history_length: int
) -> CtrModel:
    """Build an untrained model.

    Args:
        name: one of `MODEL_NAMES`.
        features: the fields and table sizes.
        config: settings by name, over the model's defaults.
        history_length: largest number of behaviours it will see.

    Raises:
        InputError: an unknown or unfit setting, or fields the model can't do without.

    """
    model_type, config_type = _MODELS[name]
    model: CtrModel = model_type(features, read_config(config_type, config), history_length=history_length)
    return model


def default_config(name: str) -> dict[str, Any]:
    """Return a model's settings and their defaults."""
    return dataclasses.asdict(_MODELS[name][1]())


def resolve_config(name: str, values: Mapping[str, object]) -> dict[str, Any]:
    """Return a model's full configuration: `values` in the types of their fields, over its defaults.

    Raises:
        InputError: an unknown setting, or one that does not fit its field.

    """
    return dataclasses.asdict(read_config(_MODELS[name][1], values))
