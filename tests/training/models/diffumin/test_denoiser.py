"""The diffusion network, held against the transformer it is on paper."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from training.models.diffumin.config import DiffuminConfig
from training.models.diffumin.denoiser import Denoiser, sinusoids

PAIRS, WIDTH = 5, 8


def build(seed=0, **config):
    """Return a network without any part that is still a 0 or a 1, which would hide mistakes."""
    torch.manual_seed(seed)
    denoiser = Denoiser(DiffuminConfig(embedding_width=WIDTH, **config))
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if name.endswith("bias") or "norms" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return denoiser


def draw(channels=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    r_PcD, o_PcD, x_PcD = torch.randn(3, PAIRS, channels, WIDTH, generator=generator)
    level_Pc = torch.randint(1, 1001, (PAIRS, channels), generator=generator)
    return r_PcD, o_PcD, x_PcD, level_Pc


def run(denoiser, r_PcD, o_PcD, x_PcD, level):
    found_RD = denoiser(x_PcD.flatten(0, 1), level.flatten(), denoiser.prepare(r_PcD, o_PcD))
    return found_RD.view(x_PcD.shape)


def self_attention(attention, tokens_TD):
    """One pass through queries, keys and values, head by head."""
    query, key, value = (
        matrix(tokens_TD).view(len(tokens_TD), attention.heads, -1).transpose(0, 1)
        for matrix in (attention.query, attention.key, attention.value)
    )
    weight = torch.softmax(query @ key.transpose(1, 2) / math.sqrt(query.shape[-1]), dim=-1)
    return attention.output((weight @ value).transpose(0, 1).flatten(1))


def on_paper(denoiser, r_PcD, o_PcD, x_PcD, level_Pc):
    """Pass by pass: all tokens through all layers, then the one at the channel's own place."""
    found_PcD = torch.empty_like(x_PcD)
    for pair in range(len(r_PcD)):
        for channel in range(r_PcD.shape[1]):
            tokens_TD = r_PcD[pair].clone()
            tokens_TD[channel] = x_PcD[pair, channel]
            tokens_TD = tokens_TD + denoiser.time(sinusoids(level_Pc[pair, channel].view(1), WIDTH))
            for layer in denoiser.layers:
                tokens_TD = layer.norms[0](tokens_TD + self_attention(layer.attention, tokens_TD))
                tokens_TD = layer.norms[1](tokens_TD + layer.condition(o_PcD[pair, channel]))
                tokens_TD = layer.norms[2](tokens_TD + layer.narrow(layer.widen(tokens_TD).relu()))
            found_PcD[pair, channel] = tokens_TD[channel]
    return found_PcD


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"denoiser_layers": 1},
        {"denoiser_layers": 3, "denoiser_heads": 4},
        {"denoiser_layers": 2, "denoiser_heads": 1, "channels": 3},
        {"channels": 2},
        {"channels": 1},
        {"channels": 1, "denoiser_layers": 1},
    ],
    ids=str,
)
def test_the_factorised_network_is_the_transformer_pass_by_pass(config):
    denoiser = build(**config)
    inputs = draw(config.get("channels", 4))

    torch.testing.assert_close(run(denoiser, *inputs), on_paper(denoiser, *inputs), rtol=1e-4, atol=1e-5)


def test_so_are_its_gradients():
    gradients = []
    for network in (run, on_paper):
        denoiser = build()
        r_PcD, o_PcD, x_PcD, level_Pc = draw()
        leaves = [tensor.requires_grad_() for tensor in (r_PcD, o_PcD, x_PcD)]
        network(denoiser, *leaves, level_Pc).square().mul(torch.arange(WIDTH)).sum().backward()
        gradients.append({name: p.grad for name, p in denoiser.named_parameters()})
        gradients[-1] |= {str(place): leaf.grad for place, leaf in enumerate(leaves)}

    for name, gradient in gradients[1].items():
        torch.testing.assert_close(
            gradients[0][name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()), msg=name
        )


def test_one_level_for_all_is_the_same_as_that_level_for_each():
    denoiser = build()
    r_PcD, o_PcD, x_PcD, _ = draw()
    one = torch.tensor([170])

    torch.testing.assert_close(
        run(denoiser, r_PcD, o_PcD, x_PcD, one),
        run(denoiser, r_PcD, o_PcD, x_PcD, one.expand(PAIRS, 4)),
        rtol=1e-5,
        atol=1e-6,
    )


def test_what_is_prepared_serves_every_level():
    denoiser = build()
    r_PcD, o_PcD, x_PcD, _ = draw()
    context = denoiser.prepare(r_PcD, o_PcD)

    for level in (1, 500, 1000):
        level_Pc = torch.full((PAIRS, 4), level)
        found_RD = denoiser(x_PcD.flatten(0, 1), torch.tensor([level]), context)
        expected = on_paper(denoiser, r_PcD, o_PcD, x_PcD, level_Pc)
        torch.testing.assert_close(found_RD.view(x_PcD.shape), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_with_a_single_key_adds_a_constant(heads):
    # what a layer adds for its condition, against the attention it stands for, with any query at all
    layer = build().layers[0]
    attention = nn.MultiheadAttention(WIDTH, heads, bias=False, batch_first=True)
    value, output = layer.condition
    with torch.no_grad():
        attention.in_proj_weight[2 * WIDTH :] = value.weight
        attention.out_proj.weight.copy_(output.weight)
    condition = torch.randn(PAIRS, 1, WIDTH)
    queries = torch.randn(PAIRS, 4, WIDTH) * 10

    added, weight = attention(queries, condition, condition)

    assert torch.equal(weight, torch.ones_like(weight))
    torch.testing.assert_close(added, layer.condition(condition).expand_as(added), rtol=1e-5, atol=1e-6)


def test_self_attention_is_that_of_torch():
    # the reference above, against another implementation
    attention = build(denoiser_heads=2).layers[0].attention
    theirs = nn.MultiheadAttention(WIDTH, 2, bias=False, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(
            torch.cat([m.weight for m in (attention.query, attention.key, attention.value)])
        )
        theirs.out_proj.weight.copy_(attention.output.weight)
    tokens_TD = torch.randn(4, WIDTH)

    expected, _ = theirs(*[tokens_TD.unsqueeze(0)] * 3)

    torch.testing.assert_close(self_attention(attention, tokens_TD), expected[0], rtol=1e-5, atol=1e-6)


def test_the_other_channels_are_a_set():
    denoiser = build()
    r_PcD, o_PcD, x_PcD, level_Pc = draw()
    moved = [0, 3, 1, 2]

    found = run(denoiser, r_PcD, o_PcD, x_PcD, level_Pc)
    shuffled = run(denoiser, *(values[:, moved] for values in (r_PcD, o_PcD, x_PcD, level_Pc)))

    torch.testing.assert_close(shuffled, found[:, moved], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layers", [1, 2])
def test_an_output_hangs_on_the_own_token_the_others_the_condition_and_the_level(layers):
    denoiser = build(denoiser_layers=layers)
    r_PcD, o_PcD, x_PcD, level_Pc = draw()
    found = run(denoiser, r_PcD, o_PcD, x_PcD, level_Pc)[:, 0]
    inputs = {"r": r_PcD, "o": o_PcD, "x": x_PcD, "level": level_Pc}

    def changed(name, channel):
        other = {key: values.clone() for key, values in inputs.items()}
        other[name][:, channel] += 1
        return (run(denoiser, other["r"], other["o"], other["x"], other["level"])[:, 0] - found).abs().amax()

    for name, channel in (("r", 1), ("o", 0), ("x", 0), ("level", 0)):
        assert changed(name, channel) > 1e-5, name
    # its own clean interest would give the answer away; another's noise and condition are not its own
    for name, channel in (("r", 0), ("o", 1), ("x", 1), ("level", 1)):
        assert changed(name, channel) == 0, name


def test_every_weight_has_a_part_in_the_output():
    denoiser = build()
    run(denoiser, *draw()).square().mul(torch.arange(WIDTH)).sum().backward()

    for name, parameter in denoiser.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_scores_too_large_for_an_exponential_are_finite():
    denoiser = build()
    with torch.no_grad():
        for layer in denoiser.layers:
            layer.attention.query.weight.mul_(1e4)

    assert run(denoiser, *draw()).isfinite().all()


@pytest.mark.parametrize("width", [1, 7, 8])
def test_levels_have_codes_of_any_width(width):
    code = sinusoids(torch.arange(1, 1001), width)

    assert code.shape == (1000, width)
    assert code.abs().amax() <= 1
    assert functional.pdist(code).min() > (0 if width > 1 else -1)
