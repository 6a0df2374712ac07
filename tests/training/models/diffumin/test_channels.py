import pytest
import torch
from torch import Tensor

from training.models.diffumin.channels import Channels, gram_schmidt


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sign_fixed_qr(x_PcD: Tensor) -> tuple[Tensor, Tensor]:
    q, r = torch.linalg.qr(x_PcD.double().transpose(-1, -2))
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    return (q * diagonal.sign().unsqueeze(-2)).transpose(-1, -2), diagonal.abs()


def departure(o_PcD: Tensor) -> float:
    """Largest departure of o o^T from the identity."""
    o = o_PcD.detach().double()
    return float((o @ o.transpose(-1, -2) - torch.eye(o.shape[-2], dtype=torch.float64)).abs().max())


@pytest.mark.parametrize(("channels", "width"), [(1, 5), (4, 32), (8, 64), (6, 6)])
def test_channels_are_qr_with_a_positive_diagonal(channels, width):
    x_PcD = draw(50, channels, width)
    o_PcD, length_Pc = gram_schmidt(x_PcD)
    expected_o, expected_length = sign_fixed_qr(x_PcD)
    # of a square matrix the last row is what rounding leaves of it: as ill-conditioned as the draw
    assert torch.allclose(o_PcD.double(), expected_o, atol=1e-4 if channels == width else 1e-5)
    assert torch.allclose(length_Pc.double(), expected_length, rtol=1e-4, atol=1e-5)
    assert (length_Pc > 0).all()


def test_channels_are_orthonormal_to_single_precision():
    o_PcD, _ = gram_schmidt(draw(500, 4, 32))
    assert departure(o_PcD) < 1e-6


def test_nearly_parallel_rows_stay_orthogonal():
    first = draw(200, 1, 32)
    x_PcD = first + 1e-3 * draw(200, 4, 32, seed=1)
    o_PcD, _ = gram_schmidt(x_PcD)
    assert departure(o_PcD) < 1e-5


def test_channels_of_half_precision_are_orthonormal_to_half_precision():
    first = draw(200, 1, 64)
    for x_PcD in (draw(200, 4, 64), first + 0.1 * draw(200, 4, 64, seed=1), 100 * draw(200, 4, 64)):
        o_PcD, length_Pc = gram_schmidt(x_PcD.half())
        assert o_PcD.dtype == torch.float16
        assert torch.isfinite(length_Pc).all()
        assert departure(o_PcD) < 2e-3


def test_dependent_rows_give_no_channel_and_no_gradient_that_is_no_number():
    x_PcD = draw(1, 4, 8)
    x_PcD[:, 2] = x_PcD[:, 0] - 2 * x_PcD[:, 1]
    zeros = torch.zeros(1, 4, 8)
    x_PcD = torch.cat([x_PcD, zeros]).requires_grad_()
    o_PcD, length_Pc = gram_schmidt(x_PcD)
    assert not o_PcD[0, 2].any()
    assert length_Pc[0, 2] == 0
    assert departure(o_PcD[0, [0, 1, 3]]) < 1e-6
    assert not o_PcD[1].any()
    (o_PcD.sum() + length_Pc.sum()).backward()
    assert x_PcD.grad is not None
    assert torch.isfinite(x_PcD.grad).all()


def test_a_small_ad_has_the_channels_of_a_large_one():
    x_PcD = draw(20, 4, 16)
    large, _ = gram_schmidt(x_PcD)
    small, _ = gram_schmidt(x_PcD * 1e-4)
    assert torch.allclose(large, small, atol=1e-5)


def test_the_first_channel_begins_as_the_ad_itself():
    q_UND = draw(2, 3, 8)
    o_UNcD, length_UNc = Channels(8, 4)(q_UND)
    assert torch.allclose(o_UNcD[:, :, 0] * length_UNc[:, :, :1], q_UND, atol=1e-6)


def test_gram_schmidt_has_the_gradient_of_qr():
    x_PcD = draw(3, 3, 6).double().requires_grad_()
    weight = draw(3, 3, 6, seed=2).double()
    (ours,) = torch.autograd.grad((gram_schmidt(x_PcD)[0] * weight).sum(), x_PcD)
    (theirs,) = torch.autograd.grad((sign_fixed_qr(x_PcD)[0] * weight).sum(), x_PcD)
    assert torch.allclose(ours, theirs, atol=1e-4)
