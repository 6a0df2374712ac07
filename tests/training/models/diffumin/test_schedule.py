"""The schedules' constants, and what the samplers' steps come to."""

import math

import numpy as np
import pytest
import torch

from training.models.diffumin.schedule import LEVELS, Schedule, ddim_levels

NAMES = ("linear", "cosine")


def test_the_linear_schedule_leaves_as_much_signal_as_is_published():
    signal = Schedule.named("linear").signal[[10, 20, 50, 100, 200, 500, 1000]]

    np.testing.assert_allclose(signal, [0.9991, 0.9971, 0.9854, 0.9471, 0.8118, 0.2803, 0.0064], atol=5e-5)


def test_the_cosine_schedule_follows_its_curve_and_keeps_some_signal():
    schedule = Schedule.named("cosine")

    def curve(level):
        return math.cos((level / 1000 + 0.008) / 1.008 * math.pi / 2)

    for level in (1, 100, 500, 900, 998):
        assert schedule.signal[level] == pytest.approx(curve(level) / curve(0), rel=1e-9)
    assert 0 < schedule.signal[LEVELS] < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_signal_falls_and_noise_rises_and_their_squares_add_up_to_one(name):
    schedule = Schedule.named(name)

    assert len(schedule.signal) == len(schedule.noise) == len(schedule.beta) == LEVELS + 1
    assert (schedule.signal[0], schedule.noise[0], schedule.beta[0]) == (1, 0, 0)
    assert (np.diff(schedule.signal) < 0).all()
    assert (np.diff(schedule.noise) > 0).all()
    np.testing.assert_allclose(schedule.signal**2 + schedule.noise**2, 1, rtol=1e-12)


@pytest.mark.parametrize(
    ("start", "steps", "levels"),
    [
        (300, 1, (300, 0)),
        (300, 4, (300, 225, 150, 75, 0)),
        (10, 3, (10, 7, 3, 0)),
        (3, 3, (3, 2, 1, 0)),
        (1, 1, (1, 0)),
    ],
)
def test_ddim_levels_are_evenly_spaced_whole_numbers(start, steps, levels):
    assert ddim_levels(start, steps) == levels


@pytest.mark.parametrize("steps", [1, 7, 333, 1000])
def test_ddim_levels_fall_at_every_step(steps):
    levels = ddim_levels(1000, steps)

    assert levels[0] == 1000
    assert levels[-1] == 0
    assert len(levels) == steps + 1
    assert (np.diff(levels) < 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("parametrisation", ["x0", "eps"])
@pytest.mark.parametrize("steps", [1, 3, 50])
def test_ddim_with_a_perfect_network_returns_to_the_clean_vector(name, parametrisation, steps):
    schedule = Schedule.named(name)
    rng = np.random.default_rng(0)
    x0, noise = rng.standard_normal((2, 16))
    x = schedule.signal[400] * x0 + schedule.noise[400] * noise

    for step in schedule.ddim(parametrisation, start=400, steps=steps):
        x = step.keep * x + step.use * (x0 if parametrisation == "x0" else noise)

    np.testing.assert_allclose(x, x0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_a_ddim_step_is_its_definition(steps):
    schedule = Schedule.named("linear")
    rng = np.random.default_rng(1)
    levels = ddim_levels(500, steps)

    for step, lower in zip(schedule.ddim("x0", start=500, steps=steps), levels[1:], strict=True):
        x, x0_found = rng.standard_normal((2, 8))
        noise_found = (x - schedule.signal[step.level] * x0_found) / schedule.noise[step.level]
        expected = schedule.signal[lower] * x0_found + schedule.noise[lower] * noise_found
        np.testing.assert_allclose(step.keep * x + step.use * x0_found, expected, atol=1e-12)
        assert step.noise == 0


def test_both_parametrisations_take_the_same_steps_for_converted_estimates():
    schedule = Schedule.named("linear")
    by_x0, by_eps = (schedule.ddim(name, start=350, steps=5) for name in ("x0", "eps"))
    rng = np.random.default_rng(2)

    for of_x0, of_eps in zip(by_x0, by_eps, strict=True):
        assert of_x0.level == of_eps.level
        x, x0_found = rng.standard_normal((2, 8))
        noise_found = (x - schedule.signal[of_x0.level] * x0_found) / schedule.noise[of_x0.level]
        np.testing.assert_allclose(
            of_x0.keep * x + of_x0.use * x0_found, of_eps.keep * x + of_eps.use * noise_found, atol=1e-9
        )


@pytest.mark.parametrize(
    ("steps", "gain", "weight", "spread"),
    [
        (5, 1.0004, -0.039, 0.025),
        (10, 1.0010, -0.072, 0.042),
        (20, 1.0029, -0.135, 0.076),
        (50, 1.0148, -0.326, 0.172),
    ],
)
def test_the_lowest_steps_of_the_schedule_hardly_move_their_start(steps, gain, weight, spread):
    kept, used, variance = 1.0, 0.0, 0.0
    for step in Schedule.named("linear").ddpm(steps=steps):
        kept, used = step.keep * kept, step.keep * used + step.use
        variance = step.keep**2 * variance + step.noise**2

    assert kept == pytest.approx(gain, abs=6e-5)
    assert used == pytest.approx(weight, abs=6e-4)
    assert math.sqrt(variance) == pytest.approx(spread, abs=6e-4)


def test_perturbed_vectors_are_signal_and_noise_of_their_own_levels():
    schedule = Schedule.named("linear")
    x0_PcD = torch.randn(50, 3, 4, generator=torch.Generator().manual_seed(0))

    drawn = schedule.perturb(x0_PcD, torch.Generator().manual_seed(1))

    for pair, channel in ((0, 0), (7, 2), (49, 1)):
        level = int(drawn.level[pair, channel])
        expected = schedule.signal[level] * x0_PcD[pair, channel]
        expected = expected + schedule.noise[level] * drawn.noise[pair, channel]
        torch.testing.assert_close(drawn.x[pair, channel], expected.float())
    assert drawn.level.unique().numel() > 100  # each channel has its own


def test_levels_are_drawn_evenly_from_the_first_to_the_last():
    drawn = Schedule.named("linear").perturb(torch.zeros(40_000, 2, 1), torch.Generator().manual_seed(3))

    counts = torch.bincount(drawn.level.flatten(), minlength=LEVELS + 1)
    assert counts[0] == 0
    assert counts[1:].min() > 40  # 80 on average
    assert len(counts) == LEVELS + 1


def test_a_generator_in_the_same_state_draws_the_same():
    schedule, generator = Schedule.named("cosine"), torch.Generator().manual_seed(5)
    x0_PcD = torch.ones(3, 2, 4)
    schedule.perturb(x0_PcD, generator)
    state = generator.get_state()
    first = schedule.perturb(x0_PcD, generator)

    resumed = torch.Generator()
    resumed.set_state(state)
    again = schedule.perturb(x0_PcD, resumed)

    assert torch.equal(again.x, first.x)
    assert torch.equal(again.level, first.level)
    assert not torch.equal(schedule.perturb(x0_PcD, resumed).x, first.x)
