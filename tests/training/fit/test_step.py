"""One step: what dense Adam would do, clipping, regularisation, precision."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.training.fit.tiny import random_batch, tiny_features
from training.batches import Batch
from training.fit.step import LOWEST_RATE, SMALL_TABLE, TrainStep
from training.fit.touched import vocabulary_tables
from training.models import CtrModel, build_model
from training.settings import TrainSettings

ROWS = SMALL_TABLE + 4
STEPS = 30


def _built(name: str, **config: object) -> CtrModel:
    torch.manual_seed(0)
    return build_model(name, tiny_features(ROWS), {"embedding_width": 8, **config}, history_length=8)


def _plain_step(model: CtrModel, optimizer: torch.optim.Optimizer, batch: Batch, clip: float) -> float:
    """Do what a training loop without row-sparse tables does."""
    valid = torch.from_numpy(batch.valid)
    logit = model({name: torch.from_numpy(values) for name, values in batch.tensors.items()})
    loss = functional.binary_cross_entropy_with_logits(logit[valid], torch.from_numpy(batch.clicked)[valid])
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize("rows", [40, ROWS], ids=["the same rows again and again", "rows that seldom return"])
@pytest.mark.parametrize("clip", [0.05, 5.0])
@pytest.mark.parametrize(
    ("name", "config"),
    [("tin", {}), ("din", {}), ("mean_pool", {}), ("diffumin", {"diffusion": False})],
    ids=["tin", "din", "mean_pool", "diffumin without losses of its own"],
)
def test_losses_and_weights_are_those_of_a_dense_training(name, config, clip, rows):
    ours = _built(name, **config)
    plain, begin = copy.deepcopy(ours), copy.deepcopy(ours)
    step = TrainStep(ours, TrainSettings(history_length=8, gradient_clip=clip), steps=STEPS)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: max(LOWEST_RATE, 1 - i / STEPS))
    generator = np.random.default_rng(0)
    # where a gradient is all rounding, as of an age no batch mate has, Adam steps by its sign
    close = 1e-5 if name == "diffumin" else 1e-6
    for _ in range(STEPS):
        batch = random_batch(ours, generator, requests=6, rows=rows, padded=True)
        assert step.step(batch) == pytest.approx(_plain_step(plain, optimizer, batch, clip), abs=close)
        schedule.step()
    step.settle()
    for part, value in plain.named_parameters():
        way = (value - begin.get_parameter(part)).norm()
        # Adam divides by a gradient's own size: where that is float noise, so is the direction of the step
        assert (ours.get_parameter(part) - value).norm() < 1e-2 * way, part


def test_tables_of_any_size_are_left_out_of_the_weight_decay():
    moved = {}
    for decay in (0.0, 0.5):
        model = _built("tin")
        step = TrainStep(model, TrainSettings(history_length=8, weight_decay=decay), steps=9)
        batch = random_batch(model, np.random.default_rng(0), requests=6, rows=40)
        step.step(batch)
        step.settle()
        moved[decay] = {name: value.detach().clone() for name, value in model.named_parameters()}
    for name, value in moved[0.0].items():
        assert torch.equal(value, moved[0.5][name]) == (name in vocabulary_tables(model)), name


def test_regularisation_shrinks_touched_rows_by_their_rarity():
    """w <- w - lr lambda / n w, then the step that would have been taken without it."""
    strength, rate = 3.0, 2e-3
    occurrences = {"item": np.arange(ROWS, dtype=np.float32), "kind": np.full(20, 7, dtype=np.float32)}
    plain, shrunk = _built("tin"), _built("tin")
    before = plain.embedding.table.v_item.weight.detach().clone()
    batch = random_batch(plain, np.random.default_rng(0), requests=3, rows=ROWS)
    for model, settings in (
        (plain, TrainSettings(history_length=8)),
        (shrunk, TrainSettings(history_length=8, embedding_l2=strength)),
    ):
        step = TrainStep(model, settings, steps=10, occurrences=occurrences)
        step.step(batch)
        step.settle()
    touched = torch.from_numpy(
        np.unique(np.concatenate([batch.tensors[n].ravel() for n in ("history_item_id", "ad_ad_id")]))
    )
    expected = plain.embedding.table.v_item.weight.detach().clone()
    expected[touched] -= rate * strength / touched.clamp(min=1).unsqueeze(1) * before[touched]
    assert torch.allclose(shrunk.embedding.table.v_item.weight, expected, atol=1e-7)
    assert not torch.allclose(shrunk.embedding.table.v_item.weight, plain.embedding.table.v_item.weight)
    assert torch.equal(shrunk.ad_bias.table.weight, plain.ad_bias.table.weight)


def test_the_strongest_regularisation_takes_rows_to_zero_and_not_beyond():
    occurrences = {"item": np.ones(ROWS, dtype=np.float32), "kind": np.ones(20, dtype=np.float32)}
    model = _built("tin")
    settings = TrainSettings(history_length=8, embedding_l2=1e6)
    step = TrainStep(model, settings, steps=10, occurrences=occurrences)
    batch = random_batch(model, np.random.default_rng(0), requests=3, rows=ROWS)
    step.step(batch)
    step.settle()
    touched = model.embedding.table.v_item.weight[torch.from_numpy(batch.tensors["history_item_id"])]
    assert touched.abs().max() < 1.01 * settings.learning_rate


@pytest.mark.parametrize("activation", ["relu", "prelu", "dice", "sigmoid"])
@pytest.mark.parametrize("name", ["tin", "din", "mean_pool"])
def test_bf16_learns_alike_and_keeps_its_weights_in_float32(name, activation):
    activations = {"head_activation": activation}
    if name == "din":
        activations["attention_activation"] = activation
    losses = {}
    for precision in ("fp32", "bf16"):
        model = _built(name, **activations)
        step = TrainStep(
            model, TrainSettings(history_length=8, precision=precision, learning_rate=0.01), steps=99
        )
        batch = random_batch(model, np.random.default_rng(0), requests=16, rows=40)
        losses[precision] = [step.step(batch) for _ in range(60)]
        assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert losses["fp32"] != losses["bf16"]
    assert losses["bf16"][0] == pytest.approx(losses["fp32"][0], abs=0.01)
    assert losses["bf16"][-1] < 0.5 * losses["bf16"][0]


def test_a_loss_that_is_no_number_leaves_the_weights_alone():
    model = _built("tin")
    step = TrainStep(model, TrainSettings(history_length=8), steps=9)
    batch = random_batch(model, np.random.default_rng(0), requests=3, rows=40)
    step.step(batch)
    step.settle()
    before = copy.deepcopy(model.state_dict())
    batch.clicked[0, 0] = np.nan
    assert not np.isfinite(step.step(batch))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["tin", "din", "mean_pool", "diffumin"])
def test_cuda_takes_the_steps_of_the_cpu(name, precision):
    losses = {}
    for device in ("cpu", "cuda"):
        model = _built(name).to(device)
        settings = TrainSettings(history_length=8, precision=precision)
        step = TrainStep(model, settings, steps=STEPS, device=device)
        generator = np.random.default_rng(0)
        losses[device] = [
            step.step(random_batch(model, generator, requests=6, rows=ROWS)) for _ in range(STEPS)
        ]
        step.settle()
    assert losses["cuda"] == pytest.approx(losses["cpu"], abs=1e-4 if precision == "fp32" else 0.02)
