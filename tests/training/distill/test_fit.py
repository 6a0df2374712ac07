"""A student comes near its teacher, the same one from the same seed."""

import pytest
import torch

from training.distill import fit
from training.distill.fit import fit_student, relative_error
from training.distill.teacher import Lessons
from training.models.diffumin import DiffuminConfig
from training.models.diffumin.diffusion import Diffusion

CONFIG = DiffuminConfig(embedding_width=8, channels=3, diffusion_steps=3)


def taught(pairs: int, seed: int) -> Lessons:
    """Return what an untrained sampler does to random interests; a tenth of the channels is empty."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sampler = Diffusion(CONFIG).eval()
    shape = (pairs, CONFIG.channels, CONFIG.embedding_width)
    r = torch.randn(shape, generator=generator)
    r = r * (torch.rand(*shape[:2], 1, generator=generator) > 0.1)
    o = torch.linalg.qr(torch.randn(pairs, 8, 3, generator=generator))[0].transpose(1, 2).contiguous()
    with torch.no_grad():
        generated = sampler(r, o)
    return Lessons(r, o, generated, torch.randn(shape, generator=generator) * 0.1)


def quiet(*_):
    pass


def test_a_student_learns_where_the_steps_end(monkeypatch):
    monkeypatch.setattr(fit, "EPOCHS", 20)
    student = fit_student(CONFIG, taught(4000, 1), seed=0, report=quiet)
    unseen = taught(500, 2)
    assert relative_error(student, unseen) < 0.2
    assert not student.training


def test_a_student_that_learned_nothing_leaves_interests_as_they_are(monkeypatch):
    monkeypatch.setattr(fit, "LEARNING_RATE", 0.0)
    few = taught(100, 1)
    student = fit_student(CONFIG, few, seed=0, report=quiet)
    assert relative_error(student, few) == pytest.approx(1.0, abs=1e-4)


def test_the_log_odds_weigh_in_what_is_learned(monkeypatch):
    lessons = taught(2000, 1)
    lessons.slope[:, 1:] = 0.0  # the head looks at the first channel alone
    off = {}
    for weight in (0.0, 100.0):
        monkeypatch.setattr(fit, "LOG_ODDS_WEIGHT", weight)
        student = fit_student(CONFIG, lessons, seed=0, report=quiet)
        with torch.no_grad():
            wrong = lessons.slope * (student(lessons.r, lessons.o) - lessons.generated)
        off[weight] = float(wrong.sum((-2, -1)).square().mean())
    assert off[100.0] < 0.8 * off[0.0]


def test_the_same_seed_gives_the_same_student_and_torch_draws_on_as_before():
    few = taught(600, 1)
    state = torch.get_rng_state()
    first, again, other = (
        fit_student(CONFIG, few, seed=seed, report=quiet).state_dict() for seed in (4, 4, 5)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_progress_counts_to_the_end():
    reports = []
    fit_student(CONFIG, taught(600, 1), seed=0, report=lambda done, total, _: reports.append((done, total)))
    assert [done for done, _ in reports] == list(range(1, len(reports) + 1))
    assert reports[-1] == (fit.EPOCHS * 2, fit.EPOCHS * 2)
