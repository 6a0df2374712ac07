"""The paper's own sampler: its Algorithm 2, with draws that a graph can hold."""

import math

import pytest
import torch

from training.models.diffumin.config import DiffuminConfig
from training.models.diffumin.diffusion import Diffusion

WIDTH = 8
STEPS = 5


def build(seed=0, **config):
    torch.manual_seed(seed)
    settings = {"embedding_width": WIDTH, "diffusion_steps": STEPS, "training_steps": STEPS}
    return Diffusion(DiffuminConfig(paper_literal=True, **{**settings, **config})).eval()


def draw(pairs, width=WIDTH, seed=1):
    r_PcD, o_PcD = torch.randn(2, pairs, 4, width, generator=torch.Generator().manual_seed(seed))
    return r_PcD * 0.3, o_PcD


def algorithm_2(diffusion, r_PcD, o_PcD, generator):
    """As printed, with x of norm 1 at the start."""
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    kept = torch.cumprod(1 - beta, 0)
    x0_PcD = r_PcD / r_PcD.norm(dim=-1, keepdim=True)
    context = diffusion.denoiser.prepare(x0_PcD, o_PcD)
    level_Pc = torch.randint(1, 1001, r_PcD.shape[:-1], generator=generator)
    kept_Pc1 = kept[level_Pc - 1].unsqueeze(-1)
    x = kept_Pc1.sqrt() * x0_PcD + (1 - kept_Pc1).sqrt() * torch.randn(r_PcD.shape, generator=generator)
    for t in range(STEPS, 0, -1):
        said = diffusion.denoiser(x.float().flatten(0, 1), torch.tensor([t]), context).view(x.shape)
        mean = (x - beta[t - 1] / (1 - kept[t - 1]).sqrt() * said) / (1 - beta[t - 1]).sqrt()
        x = mean if t == 1 else mean + beta[t - 1].sqrt() * torch.randn(r_PcD.shape, generator=generator)
    return (x * r_PcD.norm(dim=-1, keepdim=True)).float()


@pytest.mark.parametrize("parametrisation", ["x0", "eps"])
def test_training_follows_algorithm_2_whatever_the_network_learned(parametrisation):
    diffusion = build(parametrisation=parametrisation).train()
    r_PcD, o_PcD = draw(6)

    with torch.no_grad():
        got = diffusion(r_PcD, o_PcD, torch.Generator().manual_seed(3))
        expected = algorithm_2(diffusion, r_PcD, o_PcD, torch.Generator().manual_seed(3))

    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_outside_of_training_equal_inputs_have_equal_results():
    diffusion = build()
    r_PcD, o_PcD = draw(6)
    generator = torch.Generator().manual_seed(0)
    first = diffusion(r_PcD, o_PcD)

    torch.manual_seed(99)
    second = diffusion(r_PcD, o_PcD, generator)

    assert torch.equal(first, second)
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(0).get_state())
    # every build has the same draws
    assert torch.equal(build(seed=5).literal.start_noise, diffusion.literal.start_noise)
    assert diffusion.literal.level.min() >= 1


def test_training_draws_anew_each_time_from_its_generator_alone():
    diffusion = build().train()
    r_PcD, o_PcD = draw(6)
    generator = torch.Generator().manual_seed(0)

    first, second = (diffusion(r_PcD, o_PcD, generator) for _ in range(2))
    again = diffusion(r_PcD, o_PcD, torch.Generator().manual_seed(0))

    assert not torch.allclose(first, second)
    assert torch.equal(first, again)
    assert torch.equal(diffusion(r_PcD, o_PcD), diffusion.eval()(r_PcD, o_PcD))  # no generator: the constants


def test_the_draws_are_saved_with_the_weights(tmp_path):
    diffusion = build()
    with torch.no_grad():
        diffusion.literal.start_noise.normal_()
        diffusion.literal.step_noise.normal_()
        diffusion.literal.level.fill_(7)
    r_PcD, o_PcD = draw(6)
    torch.save(diffusion.state_dict(), tmp_path / "weights.pt")

    other = build(seed=1)
    assert not torch.equal(other(r_PcD, o_PcD), diffusion(r_PcD, o_PcD))
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))

    assert torch.equal(other(r_PcD, o_PcD), diffusion(r_PcD, o_PcD))


def test_our_sampler_saves_nothing_but_weights():
    plain = Diffusion(DiffuminConfig(embedding_width=WIDTH))

    assert plain.state_dict().keys() == dict(plain.named_parameters()).keys()


@pytest.mark.parametrize("parametrisation", ["x0", "eps"])
def test_most_of_the_result_is_noise(parametrisation):
    # d = 40 and 10 steps, as published: the start's mean cosine to the clean interest is .14
    diffusion = build(
        parametrisation=parametrisation, embedding_width=40, diffusion_steps=10, training_steps=10
    )
    r_PcD, o_PcD = draw(2000, width=40)

    with torch.no_grad():
        got = diffusion.train()(r_PcD, o_PcD, torch.Generator().manual_seed(2))

    cosine = torch.cosine_similarity(got, r_PcD, dim=-1)
    assert 0.11 < cosine.mean() < 0.17
    # and a norm of 1 becomes nearly that of 40 standard normal numbers
    ratio = (got.norm(dim=-1) / r_PcD.norm(dim=-1)).median()
    assert 0.8 < ratio / math.sqrt(40) < 1.1
