"""TIN is the paper's sum, computed without an [N, L, D] tensor."""

import math

import pytest
import torch

from training.models.masking import HistoryMask
from training.models.tin import attention_mass


def _literal(model, inputs):
    """Return (interest, logits) of one request by the paper's equations, behaviour by behaviour."""
    length = int(inputs["history_mask"].sum())
    embedded = model.embedding.history(inputs)[0]
    table = model.time.rank_LD
    q_ND = model.embedding.ads(inputs)[0]
    if model.time.target_D is not None:
        q_ND = q_ND + model.time.target_D
    keys = []
    for rank in range(length):  # 0 = newest
        key = embedded[-1 - rank]
        if table is not None:
            key = key + table[len(table) - 1 - rank]
        if model.time.interval is not None:
            key = key + model.time.interval.weight[inputs["history_age"][0, -1 - rank]]
        keys.append(key)
    interest, logits = torch.zeros_like(q_ND), torch.zeros(len(q_ND), length)
    for n, q in enumerate(q_ND):
        for j, key in enumerate(keys):
            logits[n, j] = model.config.logit_scale * (q * key).sum() / math.sqrt(len(q))
        weights = logits[n].exp() / logits[n].exp().sum()
        for j, key in enumerate(keys):
            interest[n] += weights[j] * (q * key)
    return interest, logits


def _computed(model, inputs):
    q_UND = model.time.target(model.embedding.ads(inputs))
    k_ULD = model.time.behaviors(model.embedding.history(inputs), inputs)
    mask = HistoryMask.of(inputs["history_mask"])
    logit_UNL = model.attention_logits(q_UND, k_ULD, mask)
    weight_UNL = torch.softmax(logit_UNL, -1)
    mass_UN1 = attention_mass(logit_UNL, weight_UNL, mask)
    return q_UND * torch.bmm(weight_UNL, k_ULD), mass_UN1


@pytest.mark.parametrize("temporal", ["both", "rank", "interval", "none"])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_the_interest_is_the_literal_sum_and_the_mass_the_log_mean_exp(build, draw, pad, temporal, scale):
    model = build("tin", temporal=temporal, logit_scale=scale).eval()
    inputs = pad(draw([7], 3), length=2)

    (interest, mass), (expected, logits) = _computed(model, inputs), _literal(model, inputs)

    torch.testing.assert_close(interest[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mass[0, :, 0], torch.logsumexp(logits, -1) - math.log(7), rtol=1e-4, atol=1e-5)


def test_the_literal_form_is_an_mlp_on_the_literal_sum(build, draw):
    model = build("tin", logit_scale=1.0, attention_mass=False, ad_bias=False).eval()
    inputs = draw([7], 3)
    interest_ND, _ = _literal(model, inputs)
    q_ND = model.embedding.ads(inputs)[0] + model.time.target_D
    candidate = [part[0] for part in model.embedding.candidate(inputs)]

    pair = torch.cat([interest_ND, q_ND, interest_ND * q_ND, *candidate], -1)
    hidden = model.head.from_pair(pair)
    hidden = hidden + model.head.from_request(torch.cat(model.embedding.request(inputs), -1))
    for activation, layer in zip(model.head.activations, model.head.layers, strict=True):
        hidden = layer(activation(hidden))

    torch.testing.assert_close(model(inputs)[0], hidden.squeeze(-1), rtol=1e-4, atol=1e-5)


def test_the_gradient_of_the_mass_is_that_of_log_sum_exp():
    torch.manual_seed(0)
    mask = HistoryMask.of(torch.tensor([[False, True, True, True]]))
    logit = torch.randn(1, 3, 4).requires_grad_()
    masked = logit + mask.bias().unsqueeze(1)

    mass = attention_mass(masked, masked.softmax(-1), mask)
    (ours,) = torch.autograd.grad(mass.sum(), logit)
    (theirs,) = torch.autograd.grad(torch.logsumexp(logit[..., 1:], -1).sum(), logit)

    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_an_empty_history_has_no_interest_and_no_mass(build, draw):
    model = build("tin").eval()
    given = []
    model.head.register_forward_pre_hook(lambda _module, arguments: given.extend(arguments))

    model(draw([0], 3))

    pair, request, _ = given
    interest_UND, mass_UN1, log_count_U1 = pair[0], pair[-1], request[-1]
    assert not interest_UND.any()
    assert not mass_UN1.any()
    assert not log_count_U1.any()


def test_many_alike_behaviours_score_unlike_one(build, draw):
    """What a softmax forgets: the mean of ten equal vectors is one of them."""
    inputs = draw([1], 4)
    ten = {name: v.repeat(1, 10) if name.startswith("history_") else v for name, v in inputs.items()}

    literal = build("tin", temporal="none", attention_mass=False).eval()
    counting = build("tin", temporal="none").eval()

    torch.testing.assert_close(literal(ten), literal(inputs), rtol=0, atol=1e-5)
    assert (counting(ten) - counting(inputs)).abs().max() > 1e-3


def test_the_released_code_leaves_out_one_product(build, draw):
    inputs = draw([7], 3)
    paper, released = build("tin").eval(), build("tin", released_code=True).eval()

    assert (paper(inputs) - released(inputs)).abs().max() > 1e-4


def test_without_target_attention_the_interest_is_the_mean_behaviour_whoever_asks(build, draw):
    inputs = draw([7, 0], 3)
    model = build("tin", target_attention=False).eval()
    mask = HistoryMask.of(inputs["history_mask"])
    q_UND = model.time.target(model.embedding.ads(inputs))
    k_ULD = model.time.behaviors(model.embedding.history(inputs), inputs)

    interest_UND, mass = model.attend(q_UND, k_ULD, mask)

    naive = k_ULD[0][inputs["history_mask"][0]].mean(0)
    torch.testing.assert_close(interest_UND[0], naive.expand(3, -1))
    assert not interest_UND[1].any()
    assert mass == []


def test_without_target_representation_the_head_sees_no_product_with_the_candidate(build, draw):
    model = build("tin", target_representation=False, attention_mass=False, head_hidden=(4,)).eval()
    d = model.config.embedding_width
    seen = []
    model.head.from_pair.register_forward_hook(lambda _module, given, _output: seen.append(given[0]))
    inputs = draw([7], 3)

    model(inputs)

    q_UND = model.time.target(model.embedding.ads(inputs))
    k_ULD = model.time.behaviors(model.embedding.history(inputs), inputs)
    interest_UND, _ = model.attend(q_UND, k_ULD, HistoryMask.of(inputs["history_mask"]))
    torch.testing.assert_close(seen[0][..., : 2 * d], torch.cat([interest_UND, q_UND], dim=-1))
    assert seen[0].shape[-1] == 2 * d + model.embedding.candidate_width


def test_the_scale_can_be_learned(build, draw):
    model = build("tin", learned_scale=True)

    model(draw([7], 3)).sum().backward()

    assert model.log_scale.grad.abs() > 0
    assert model.log_scale.exp().item() == pytest.approx(8.0)
