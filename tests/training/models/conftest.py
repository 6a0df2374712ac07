"""The models and their options on one small schema with every kind of field in it."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import pytest
import torch
from torch import Tensor

from training.models import CtrModel, build_model
from training.models.features import FeatureSpec, FieldSpec

Inputs: TypeAlias = dict[str, Tensor]

HISTORY_LENGTH = 12
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "din": ("din", {}),
    "din dice": ("din", {"attention_activation": "dice", "head_activation": "dice"}),
    "din softmax prelu": (
        "din",
        {"softmax": True, "age": False, "attention_hidden": (7, 5), "attention_activation": "prelu"},
    ),
    "tin": ("tin", {}),
    "tin dice": ("tin", {"head_activation": "dice", "learned_scale": True}),
    "tin literal": ("tin", {"logit_scale": 1.0, "attention_mass": False, "ad_bias": False}),
    "tin released code": ("tin", {"released_code": True, "temporal": "rank", "head_activation": "sigmoid"}),
    "tin without target attention": ("tin", {"target_attention": False}),
    "tin without target representation": ("tin", {"target_representation": False}),
    "diffumin": ("diffumin", {"diffusion": True, "start_level": 100, "diffusion_steps": 3}),
    "diffumin variant D": ("diffumin", {"diffusion": False}),
    "diffumin full short term": (
        "diffumin",
        {"diffusion": False, "short_term": "full", "short_term_layers": 2, "short_term_length": 5},
    ),
    "diffumin two layers of history": (
        "diffumin",
        {"diffusion": False, "short_term_layers": 2, "short_term_length": 5},
    ),
    "diffumin no short term": ("diffumin", {"diffusion": True, "diffusion_steps": 1, "short_term": "none"}),
    "diffumin count": ("diffumin", {"diffusion": False, "aggregation": "count", "kept_share": 0.5}),
    "diffumin score": ("diffumin", {"diffusion": False, "aggregation": "score", "channels": 2}),
    "diffumin eps cosine": (
        "diffumin",
        {
            "diffusion": True,
            "parametrisation": "eps",
            "schedule": "cosine",
            "diffusion_steps": 2,
            "training_steps": 2,
        },
    ),
    "diffumin paper literal": ("diffumin", {"diffusion": True, "paper_literal": True, "diffusion_steps": 3}),
    "diffumin without routing": ("diffumin", {"diffusion": True, "routing": False, "diffusion_steps": 2}),
    "diffumin generated alone": (
        "diffumin",
        {"diffusion": True, "head_interests": "generated", "sampler_gradient": True},
    ),
    "mean_pool": ("mean_pool", {"head_activation": "prelu"}),
    "popularity": ("popularity", {}),
}


def _categorical(name: str, vocabulary: str, matches: str | None = None) -> FieldSpec:
    return FieldSpec(name, "categorical", vocabulary, matches)


SPEC = FeatureSpec(
    behavior=(
        _categorical("item", "item"),
        _categorical("category", "category"),
        _categorical("channel", "channel"),
        _categorical("city", "city"),
        FieldSpec("paid", "numeric"),
    ),
    ad=(
        _categorical("ad_id", "item", "item"),
        _categorical("category", "category", "category"),
        _categorical("format", "format"),
        FieldSpec("price", "numeric"),
    ),
    user=(_categorical("city", "city"), FieldSpec("income", "numeric")),
    context=(_categorical("slot", "slot"), FieldSpec("hour", "numeric")),
    vocabulary_rows={"item": 40, "category": 9, "channel": 4, "city": 6, "format": 5, "slot": 7},
    action_rows=4,
    age_rows=34,
)


@pytest.fixture(name="spec")
def _spec() -> FeatureSpec:
    return SPEC


@pytest.fixture(name="build")
def _build() -> Callable[..., CtrModel]:
    """Build a model whose zero-initialised parts are drawn too: a bias of 0 would hide mistakes."""

    def build(name: str, **config: object) -> CtrModel:
        return _built(name, config)

    return build


@pytest.fixture(name="variant", params=VARIANTS)
def _variant(request: pytest.FixtureRequest) -> CtrModel:
    return _built(*VARIANTS[request.param])


@pytest.fixture(name="weighing", params=[name for name in VARIANTS if name != "popularity"])
def _weighing(request: pytest.FixtureRequest) -> CtrModel:
    """Build each variant of the models that weigh behaviours."""
    return _built(*VARIANTS[request.param])


def _built(name: str, config: Mapping[str, object]) -> CtrModel:
    torch.manual_seed(7)
    widths = {} if name == "popularity" else {"embedding_width": 8}
    model = build_model(name, SPEC, {**widths, **config}, history_length=HISTORY_LENGTH)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.5)
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight.mul_(3.0)
                module.weight[0] = 0.0
        for place, buffer in model.named_buffers():
            if place.endswith("running_variance"):
                buffer.uniform_(0.5, 2.0)
            elif buffer.dtype == torch.float32:
                buffer.normal_()
    return model


@pytest.fixture(name="draw")
def _draw() -> Callable[..., Inputs]:
    """Draw the inputs of U requests with histories of given lengths and N candidates each."""

    def draw(lengths: list[int], candidates: int, *, seed: int = 0) -> Inputs:
        generator = torch.Generator().manual_seed(seed)
        requests, longest = len(lengths), max(1, *lengths)
        mask = torch.arange(longest) >= longest - torch.tensor(lengths).unsqueeze(1)
        shapes = {"ad": (requests, candidates), "user": (requests,), "context": (requests, candidates)}
        inputs: Inputs = {}
        for group, fields in (("ad", SPEC.ad), ("user", SPEC.user), ("context", SPEC.context)):
            for field in fields:
                inputs[f"{group}_{field.name}"] = _values(field, shapes[group], generator)
        for field in SPEC.behavior:
            inputs[f"history_{field.name}"] = _values(field, (requests, longest), generator) * mask
        inputs["history_action"] = torch.randint(1, SPEC.action_rows, mask.shape, generator=generator) * mask
        inputs["history_age"] = torch.randint(1, SPEC.age_rows, mask.shape, generator=generator) * mask
        inputs["history_mask"] = mask
        return inputs

    return draw


def _values(field: FieldSpec, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if field.kind == "numeric":
        return torch.randn(shape, generator=generator)
    return torch.randint(1, SPEC.rows(field), shape, generator=generator)


@pytest.fixture(name="pad")
def _pad() -> Callable[..., Inputs]:
    """Pad histories on the left and candidates on the right, as batches are padded."""

    def pad(inputs: Mapping[str, Tensor], *, length: int = 0, candidates: int = 0) -> Inputs:
        def padded(name: str, values: Tensor) -> Tensor:
            if name.startswith("history_"):
                return torch.nn.functional.pad(values, (length, 0))
            if name.startswith("user_"):
                return values
            return torch.nn.functional.pad(values, (0, candidates))

        return {name: padded(name, values) for name, values in inputs.items()}

    return pad
