"""What the sampler does is noted as it is, and nothing of the run changes by it."""

import numpy as np
import pytest
import torch

from contract.errors import InputError
from tests.support.tiny import tiny_run
from training.batches import BatchSource
from training.distill import teacher
from training.distill.teacher import Lessons, lessons, teacher_of, with_sampler
from training.run import Run
from training.scoring import inputs_of


@pytest.fixture(scope="module", name="run")
def _run(tmp_path_factory) -> Run:
    return Run.load(tiny_run(tmp_path_factory.mktemp("teacher"), "diffumin"))


def taken(run: Run, *, seed: int = 0, count: int = 40) -> Lessons:
    dataset = run.dataset()
    source = BatchSource(dataset, run.encoder, run.model.inputs)
    chosen = dataset.requests_of("train")[:count]
    return lessons(teacher_of(run), source, chosen, seed=seed, report=lambda *_: None, label="")


def test_every_valid_pair_is_noted_with_what_the_sampler_makes_of_it(run):
    noted = taken(run)
    dataset = run.dataset()
    assert len(noted) == len(dataset.rows_of(dataset.requests_of("train")[:40]))
    assert noted.r.shape == noted.o.shape == noted.generated.shape == noted.slope.shape
    with torch.inference_mode():
        again = run.model.diffusion(noted.r, noted.o)
    torch.testing.assert_close(noted.generated, again, rtol=0, atol=1e-5)
    assert not torch.allclose(noted.generated, noted.r, atol=0.01)


def test_the_slope_tells_how_log_odds_move_with_what_is_generated(run):
    model = teacher_of(run)
    dataset = run.dataset()
    source = BatchSource(dataset, run.encoder, model.inputs)
    batch = source.batch(dataset.requests_of("train")[:16], serving=True)
    noted = taken(run, count=16)

    class Shifted(torch.nn.Module):
        def forward(self, r, o, *_):
            return model.diffusion(r, o) + 1e-3 * torch.ones_like(r)

    with torch.inference_mode():
        moved_UN = with_sampler(model, Shifted())(inputs_of(batch)) - model(inputs_of(batch))
    moved = moved_UN.numpy()[batch.valid] / 1e-3
    expected = noted.slope.sum((-2, -1)).numpy()
    np.testing.assert_allclose(np.sort(moved), np.sort(expected), rtol=0.05, atol=0.02)
    assert np.abs(expected).max() > 0.01


def test_the_run_is_left_as_it_is(run):
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    sampler = run.model.diffusion
    taken(run)
    assert run.model.diffusion is sampler
    assert all(parameter.requires_grad and parameter.grad is None for parameter in run.model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.model.state_dict().items())


def test_a_model_with_another_sampler_shares_its_weights(run):
    twin = with_sampler(run.model, torch.nn.Identity())
    shared = {tensor.data_ptr() for tensor in run.model.state_dict().values()}
    assert all(tensor.data_ptr() in shared for tensor in twin.state_dict().values())


def test_the_seed_draws_the_requests_when_there_are_too_many(run, monkeypatch):
    monkeypatch.setattr(teacher, "MOST_PAIRS", 60)
    first, again, other = taken(run), taken(run), taken(run, seed=1)
    assert len(first) == 60
    assert torch.equal(first.r, again.r)
    assert not torch.equal(first.r, other.r)


def test_lessons_keep_to_their_memory(run, monkeypatch):
    pair_bytes = 16 * run.config["channels"] * run.config["embedding_width"]
    monkeypatch.setattr(teacher, "LESSON_BYTES", 30 * pair_bytes)
    noted = taken(run)
    assert len(noted) == 30
    assert sum(each.nbytes for each in vars(noted).values()) <= 30 * pair_bytes


def test_a_model_that_generates_nothing_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="is a run of tin, which generates no interests"):
        teacher_of(Run.load(tiny_run(tmp_path)))
