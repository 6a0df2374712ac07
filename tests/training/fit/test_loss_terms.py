"""A model's own loss terms: they train, draw what a resumed training draws, and count by a process's share."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.training.fit.tiny import random_batch, tiny_features
from training.batches import Batch
from training.fit.peers import Peers
from training.fit.step import TrainStep
from training.models import build_model
from training.models.tin import Tin, TinConfig
from training.settings import TrainSettings

WEIGHT = 0.3
ROWS = 40  # fewer than make a table trained by row


class Sized(Tin):
    """TIN with a term of its own: the mean square of its logits, or what a test puts in its place."""

    seen = None
    drawn = None
    factor = 1.0

    def forward(self, inputs, losses=None):
        logit_UN = super().forward(inputs)
        if losses is not None:
            self.seen = losses
            self.drawn = torch.rand(3, generator=losses.generator)
            size = logit_UN[losses.valid].square().mean()
            losses.terms |= {"size": WEIGHT * size * self.factor, "none": torch.zeros(())}
        return logit_UN


def _model(kind=Sized):
    torch.manual_seed(0)
    return kind(tiny_features(ROWS), TinConfig(embedding_width=8), history_length=8)


def _step(model, **more):
    return TrainStep(model, TrainSettings(history_length=8), steps=30, **more)


def _batches(model, count, *, requests=6):
    generator = np.random.default_rng(0)
    return [random_batch(model, generator, requests=requests, rows=ROWS, padded=True) for _ in range(count)]


def _weights(step):
    step.settle()
    return {name: value.detach().clone() for name, value in step.model.named_parameters()}


def test_terms_train_and_the_loss_that_is_told_is_that_of_the_clicks():
    model = _model()
    (batch,) = _batches(model, 1)
    valid, clicked = torch.from_numpy(batch.valid), torch.from_numpy(batch.clicked)
    plain = copy.deepcopy(model)
    logit = plain({name: torch.from_numpy(values) for name, values in batch.tensors.items()})[valid]
    click_loss = functional.binary_cross_entropy_with_logits(logit, clicked[valid])
    (click_loss + WEIGHT * logit.square().mean()).backward()

    step = _step(model)
    assert step.step(batch) == pytest.approx(click_loss.item(), abs=1e-6)

    for name, parameter in plain.named_parameters():
        ours = model.get_parameter(name).grad
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-5, atol=1e-8, msg=name)


def test_a_model_that_adds_nothing_is_trained_as_if_nothing_could_be_added():
    silent = _model()
    silent.factor = 0.0
    steps = _step(_model(Tin)), _step(silent)
    for batch in _batches(silent, 5):
        losses = [step.step(batch) for step in steps]
        assert losses[0] == losses[1]
    first, second = map(_weights, steps)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_model_learns_whose_requests_it_sees():
    model = _model()
    (batch,) = _batches(model, 1)
    _step(model).step(batch)
    assert model.seen.user.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(model.seen.valid, torch.from_numpy(batch.valid))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_term_that_is_no_number_stops_the_training_and_leaves_the_weights_alone(bad):
    model = _model()
    step = _step(model)
    good, other = _batches(model, 2)
    assert np.isfinite(step.step(good))
    before = _weights(step)
    model.factor = bad
    assert not np.isfinite(step.step(other))
    assert all(torch.equal(value, before[name]) for name, value in _weights(step).items())


def test_weights_of_rows_are_about_clicks_and_change_no_term():
    gradients = []
    for weight in (0.0, None):
        model = _model()
        model.factor = 1.0 if weight is None else 0.0
        (batch,) = _batches(model, 1)
        step = _step(model)
        zero = np.zeros(int(batch.valid.sum()), dtype=np.float32)
        step.step(step.prepare(batch, weight=zero))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert not gradients[0].any()
    assert gradients[1].any()


def test_a_step_draws_by_seed_process_and_step_alone():
    def drawn(taken, *, seed=0, rank=0):
        model = _model()
        step = _step(model, seed=seed)
        step.peers.rank = rank
        for batch in _batches(model, taken):
            step.step(batch)
        return model.drawn.tolist()

    every = [drawn(1), drawn(2), drawn(1, seed=1), drawn(1, rank=1)]
    assert len({tuple(each) for each in every}) == 4
    assert drawn(2) == every[1]


def test_a_resumed_training_draws_what_it_would_have_drawn():
    model = _model()
    step = _step(model)
    first, second = _batches(model, 2)
    step.step(first)
    state = {name: value.clone() for name, value in step.state_dict().items()}
    step.step(second)
    again = _model()
    resumed = _step(again)
    resumed.load_state_dict(state)
    resumed.step(second)
    assert torch.equal(again.drawn, model.drawn)
    expected = _weights(step)
    assert all(torch.equal(value, expected[name]) for name, value in _weights(resumed).items())


class _Written(Peers):
    """The first of two processes; what the second one says is given."""

    rank, size = 0, 2

    def __init__(self, said=None):
        self.said, self.heard = said, None

    def add_up(self, parts):
        self.heard = [part.clone() for part in parts]
        for part, other in zip(parts, self.said or [], strict=bool(self.said)):
            part.add_(other)

    def merge_rows(self, rows, values):
        raise AssertionError("no table here is trained by row")

    def any(self, flag):
        return flag

    def collect(self, values, sizes):
        return [values]


def _part(batch, rows):
    tensors = {name: values[rows] for name, values in batch.tensors.items()}
    return Batch(tensors, batch.clicked[rows], batch.valid[rows], batch.row[rows], batch.user[rows])


@pytest.mark.parametrize("first", [slice(0, 2), slice(0, 6)], ids=["a third", "all, the other has none"])
def test_two_processes_add_up_to_the_gradients_of_one(first):
    whole = _model()
    (batch,) = _batches(whole, 1)
    total = int(batch.valid.sum())
    expected_loss = _step(whole).step(batch)
    rest = slice(first.stop, None)
    said = None
    for rows in (rest, first):
        model = _model()
        peers = _Written(said)
        step = _step(model, peers=peers)
        loss = step.step(step.prepare(_part(batch, rows), total=total))
        said = peers.heard
    assert loss == pytest.approx(expected_loss, abs=1e-6)
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(model.get_parameter(name).grad, parameter.grad, rtol=1e-4, atol=1e-7)


# ---------------------------------------------------------------- DiffuMIN's own


def _diffumin(**config):
    torch.manual_seed(0)
    config = {"embedding_width": 8, "diffusion": True, "contrast_rows": 12, **config}
    return build_model("diffumin", tiny_features(ROWS), config, history_length=8)


def test_diffumin_adds_its_two_losses_and_both_train():
    model = _diffumin()
    (batch,) = _batches(model, 1)
    terms = {}
    model.register_forward_pre_hook(lambda _, args: terms.update(of=args[1]))
    _step(model).step(batch)
    assert set(terms["of"].terms) == {"diffusion", "contrast"}
    assert all(term.isfinite() and term > 0 for term in terms["of"].terms.values())
    for part in (model.diffusion.denoiser, model.contrast):
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())


@pytest.mark.parametrize("name", ["diffusion_weight", "contrast_weight"])
def test_a_loss_counts_by_its_weight(name):
    found = []
    for weight in (0.01, 0.02):
        model, seen = _diffumin(**{name: weight}), {}
        model.register_forward_pre_hook(lambda _, args, seen=seen: seen.update(of=args[1]))
        _step(model).step(_batches(model, 1)[0])
        found.append(seen["of"].terms[name.removesuffix("_weight")].item())
    assert found[1] == pytest.approx(2 * found[0])


def test_diffumin_without_diffusion_adds_none():
    model, seen = _diffumin(diffusion=False), {}
    model.register_forward_pre_hook(lambda _, args: seen.update(of=args[1]))
    _step(model).step(_batches(model, 1)[0])
    assert not seen["of"].terms


@pytest.mark.parametrize("config", [{}, {"paper_literal": True, "sampler_gradient": True}])
def test_diffumin_resumes_to_the_very_weights(config):
    batches = _batches(_diffumin(), 4)
    whole = _diffumin(**config)
    step = _step(whole)
    for batch in batches[:2]:
        step.step(batch)
    state = {name: value.clone() for name, value in step.state_dict().items()}
    for batch in batches[2:]:
        step.step(batch)
    resumed = _step(_diffumin(**config))
    torch.manual_seed(99)
    resumed.load_state_dict(state)
    for batch in batches[2:]:
        resumed.step(batch)
    expected = _weights(step)
    assert all(torch.equal(value, expected[name]) for name, value in _weights(resumed).items())
