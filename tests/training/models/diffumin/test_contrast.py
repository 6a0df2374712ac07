"""The contrastive loss against a double loop, who counts as a negative, and what is drawn."""

import math

import pytest
import torch

from contract.errors import InputError
from training.models.diffumin.config import DiffuminConfig
from training.models.diffumin.contrast import Contrast, draw_pairs

R, C, D = 9, 3, 8
USERS = torch.tensor([4, 4, 7, 1, 7, 4, 2, 9, 1])


def _built(**more):
    torch.manual_seed(1)
    return Contrast(DiffuminConfig(embedding_width=D, **more))


def _drawn(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(R, C, D, generator=generator) * 0.05 for _ in range(2))


def _head(sequential, x):
    x = x / x.norm() * math.sqrt(D)
    first, last = sequential[0], sequential[2]
    out = last.weight @ torch.relu(first.weight @ x + first.bias) + last.bias
    return out / out.norm()


def _naive(model, r, generated, users, tau):
    losses = []
    for i in range(r.shape[1]):
        there = [a for a in range(len(users)) if r[a, i].abs().sum() > 0]
        for a in there:
            others = [b for b in there if users[b] != users[a]]
            if not others:
                continue
            anchor = _head(model.real, r[a, i])
            terms = [math.e ** (anchor @ _head(model.generated, generated[b, i]) / tau) for b in [a, *others]]
            losses.append(-torch.log(terms[0] / sum(terms)))
    return torch.stack(losses).mean() if losses else torch.zeros(())


@pytest.mark.parametrize("tau", [0.05, 0.7])
def test_the_loss_and_its_gradients_are_those_of_the_double_loop(tau):
    model = _built(contrast_temperature=tau)
    found = []
    for naive in (True, False):
        r, generated = (x.requires_grad_() for x in _drawn())
        with torch.no_grad():
            r[2, 1], generated[2, 1] = 0.0, 0.0  # a channel that kept nothing
        model.zero_grad()
        loss = _naive(model, r, generated, USERS.tolist(), tau) if naive else model(r, generated, USERS)
        loss.backward()
        found.append([loss.detach(), r.grad, generated.grad, *(p.grad.clone() for p in model.parameters())])
    for plain, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4)
    assert found[1][1].abs().sum() > 0
    assert found[1][2].abs().sum() > 0


def test_a_user_who_wants_the_same_twice_is_not_pushed_from_himself():
    model = _built(contrast_temperature=0.01)
    model.generated.load_state_dict(model.real.state_dict())
    r, _ = _drawn()
    twice = r[[0, 0, 2]]
    assert model(twice, twice, torch.tensor([0, 0, 1])) < 1e-3
    assert model(twice, twice, torch.tensor([0, 3, 1])) > 2 / 3 * math.log(2) - 1e-3


def test_an_interest_is_compared_within_its_channel_only():
    model = _built()
    r, generated = _drawn()
    parts = [model(r[:, i : i + 1], generated[:, i : i + 1], USERS) for i in range(C)]
    torch.testing.assert_close(model(r, generated, USERS), torch.stack(parts).mean())


@pytest.mark.parametrize(
    "case", ["one user", "one pair", "every channel empty", "one user has interests", "no pair at all"]
)
def test_without_a_negative_the_loss_is_0_and_gradients_are_finite(case):
    model = _built()
    r, generated = _drawn()
    users = USERS
    if case == "one user":
        users = torch.zeros_like(USERS)
    elif case == "one pair":
        r, generated, users = r[:1], generated[:1], USERS[:1]
    elif case == "no pair at all":
        r, generated, users = r[:0], generated[:0], USERS[:0]
    elif case == "every channel empty":
        r, generated = torch.zeros_like(r), torch.zeros_like(generated)
    else:
        r[USERS != 4], generated[USERS != 4] = 0.0, 0.0
    r.requires_grad_()
    generated.requires_grad_()
    loss = model(r, generated, users)
    loss.backward()
    assert loss == 0
    assert not r.grad.any()
    assert not generated.grad.any()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_what_generates_well_is_told_from_what_does_not():
    model = _built()
    r, generated = _drawn()
    model.generated.load_state_dict(model.real.state_dict())
    assert model(r, r, USERS) < 0.1 * model(r, generated, USERS)


def test_bfloat16_leaves_the_loss_as_it_is():
    model = _built()
    r, generated = _drawn()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model(r, generated, USERS), model(r, generated, USERS).float())
        inside = model(r, generated, USERS)
    assert torch.equal(inside, model(r, generated, USERS))


def test_at_most_so_many_valid_pairs_are_drawn_and_all_of_them_in_time():
    valid = torch.rand(20, 7, generator=torch.Generator().manual_seed(0)) < 0.6
    generator = torch.Generator().manual_seed(5)
    seen = set()
    for _ in range(60):
        places = draw_pairs(valid, 12, generator)
        assert len(places.unique()) == 12
        assert valid.flatten()[places].all()
        seen |= set(places.tolist())
    assert seen == set(valid.flatten().nonzero().squeeze(-1).tolist())
    again = draw_pairs(valid, 12, torch.Generator().manual_seed(5))
    assert torch.equal(again, draw_pairs(valid, 12, torch.Generator().manual_seed(5)))


def test_fewer_pairs_than_that_are_all_taken():
    valid = torch.tensor([[True, False], [True, True]])
    model = _built(contrast_rows=64)
    assert model.draw(valid, torch.Generator()).tolist() == [0, 2, 3]
    assert model.draw(~valid & valid, torch.Generator()).tolist() == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"contrast_temperature": 0.0}, "contrast_temperature must be > 0, got 0.0"),
        ({"contrast_rows": 1}, "contrast_rows must be > 1"),
        ({"contrast_weight": -0.1}, "contrast_weight must be >= 0, got -0.1"),
    ],
)
def test_an_unfit_setting_is_refused(setting, message):
    with pytest.raises(InputError, match=message):
        DiffuminConfig(diffusion=True, **setting)
