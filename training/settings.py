"""Training settings: `--set` over `--config` over the schema's `[train]` over the model's own defaults."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contract.errors import InputError
from training.models import MODEL_NAMES, default_config, resolve_config

DEFAULT_HISTORY_LENGTH: Final[dict[str, int]] = {
    "tin": 1000,
    "mean_pool": 1000,
    "din": 200,
    "diffumin": 500,
    "popularity": 1,
}


class TrainSettings(BaseModel):
    """How a model is trained, whatever the model."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    history_length: int = Field(
        ge=1,
        le=10_000,
        description="L, the newest behaviours a model sees; the store keeps no more than the limit.",
    )
    epochs: int = Field(2, ge=1, le=1000, description="Most passes over the training split.")
    requests_per_batch: int = Field(64, ge=1, le=100_000, description="U of a training batch.")
    learning_rate: float = Field(
        2e-3, gt=0, le=10, description="Adam's step at the start; falls linearly to 2 % of it."
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="Decoupled decay of everything but the tables.")
    gradient_clip: float = Field(5.0, gt=0, description="Largest norm of the gradient.")
    embedding_l2: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="Mini-batch aware L2: each step shrinks a touched row by this over its occurrences.",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: matrix products in bfloat16; weights, optimiser and loss stay float32."
    )
    calibration_half_life_days: float = Field(
        7.0,
        ge=0,
        description="Calibration counts a validation row this much older half as much; 0 = all alike.",
    )
    patience: int = Field(
        1, ge=1, description="Epochs without a better validation GAUC before training stops."
    )


def resolve_settings(
    model: str, *, schema: Mapping[str, Any], config_path: Path | None, given: Mapping[str, Any]
) -> tuple[TrainSettings, dict[str, Any]]:
    """Return the training settings and the model's configuration.

    Args:
        model: one of `MODEL_NAMES`.
        schema: the schema's `[train]` table.
        config_path: a TOML file of settings, or None.
        given: `--set`.

    Raises:
        InputError: an unknown model or key, or a value out of its bounds; names the source.

    """
    if model not in MODEL_NAMES:
        raise InputError(f"--model {model}: no such model; there are {', '.join(MODEL_NAMES)}")
    configuration = dict(default_config(model))
    training: dict[str, Any] = {"history_length": DEFAULT_HISTORY_LENGTH[model]}
    elsewhere = {key for name in MODEL_NAMES for key in default_config(name)}
    for source, values in (
        ("schema.toml [train]", schema),
        (str(config_path), _read_config(config_path)),
        ("--set", given),
    ):
        for key, value in values.items():
            if key in configuration:
                configuration[key] = value
            elif key in TrainSettings.model_fields:
                training[key] = value
            elif source.startswith("--set") or key not in elsewhere:
                known = ", ".join(sorted({*configuration, *TrainSettings.model_fields}))
                raise InputError(f"{source}: {model} has no setting {key!r}; it has {known}")
    try:
        return TrainSettings(**training), resolve_config(model, configuration)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"setting {first['loc'][0]}: {first['msg']}, got {first['input']!r}") from error


def _read_config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not readable as TOML: {error}") from error
