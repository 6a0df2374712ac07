"""Dice sees valid positions only, and learns the statistics it uses later."""

import pytest
import torch

from training.models.dice import ACTIVATIONS, Activation, Dice


def test_dice_is_its_equation_on_the_statistics_of_valid_positions():
    torch.manual_seed(0)
    dice = Dice(3)
    with torch.no_grad():
        dice.alpha_H.copy_(torch.tensor([0.0, 0.3, -0.2]))
    x = torch.randn(4, 5, 3) * 2 + 1
    valid = torch.rand(4, 5) < 0.6

    got = dice(x, valid)

    mean, variance = x[valid].mean(0), x[valid].var(0, correction=0)
    p = torch.sigmoid((x - mean) / torch.sqrt(variance + dice.eps))
    torch.testing.assert_close(got, p * x + (1 - p) * dice.alpha_H * x, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(dice.running_mean, 0.01 * mean)
    torch.testing.assert_close(dice.running_variance, 0.99 + 0.01 * variance)


def test_evaluation_uses_running_statistics_and_leaves_them_alone():
    dice = Dice(2).eval()
    before = dice.running_mean.clone()
    x = torch.randn(6, 2) + 5

    torch.testing.assert_close(dice(x)[:2], dice(x[:2]))
    torch.testing.assert_close(dice.running_mean, before)


def test_a_batch_without_a_valid_position_is_finite():
    dice = Dice(2)
    x = torch.randn(3, 2, requires_grad=True)

    dice(x, torch.zeros(3, dtype=torch.bool)).sum().backward()

    assert x.grad.isfinite().all()
    assert dice.running_variance.isfinite().all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_takes_any_leading_shape(name):
    activation = Activation(name, 4).eval()

    assert activation(torch.randn(2, 3, 5, 4)).shape == (2, 3, 5, 4)
    torch.testing.assert_close(activation(torch.ones(1, 4)), activation(torch.ones(2, 2, 4))[0, :1])


def test_prelu_has_one_slope_per_unit():
    activation = Activation("prelu", 2)
    with torch.no_grad():
        activation.prelu.weight.copy_(torch.tensor([0.5, 0.1]))

    torch.testing.assert_close(
        activation(torch.tensor([[-2.0, -2.0], [1.0, 1.0]])), torch.tensor([[-1.0, -0.2], [1.0, 1.0]])
    )
