"""The short-term encoder against a transformer that is given one sequence per pair, and its independences."""

import logging
import math

import numpy as np
import onnxruntime
import pytest
import torch

from contract.errors import InputError
from training.models.diffumin.config import DiffuminConfig
from training.models.diffumin.short_term import ShortTerm

CLOSE = {"rtol": 0.0, "atol": 1e-5}
EVERY = [("full", 1), ("full", 2), ("full", 3), ("history_only", 1), ("history_only", 3)]
every = pytest.mark.parametrize(("how", "layers"), EVERY)
D, H, K = 8, 2, 6


def _built(how, layers, **more):
    torch.manual_seed(3)
    config = DiffuminConfig(
        embedding_width=D,
        short_term=how,
        short_term_layers=layers,
        short_term_heads=H,
        short_term_length=K,
        **more,
    )
    model = ShortTerm(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def _drawn(lengths, ads, *, longest=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    longest = longest or max(1, *lengths)
    mask = torch.arange(longest) >= longest - torch.tensor(lengths).unsqueeze(1)
    k = torch.randn(len(lengths), longest, D, generator=generator) * mask.unsqueeze(-1)
    return torch.randn(len(lengths), ads, D, generator=generator), k, mask


def _attention(layer, tokens, visible):
    """Softmax attention of one sequence `[T, D]`; `visible[i, j]`: token i sees token j."""
    parts = []
    for head in range(H):
        own = slice(head * D // H, (head + 1) * D // H)
        query, key, value = (
            tokens @ linear.weight.T[:, own] for linear in (layer.query, layer.key, layer.value)
        )
        score = (query @ key.T / math.sqrt(D // H)).masked_fill(~visible, -math.inf)
        parts.append(torch.softmax(score, dim=-1) @ value)
    return torch.cat(parts, dim=-1) @ layer.out.weight.T


def _norm(layer_norm, x):
    centred = x - x.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return centred / deviation * layer_norm.weight + layer_norm.bias


def _naive(model, q_D, k_LD, mask_L, how):
    """One (request, ad) pair: only the valid newest behaviours and the ad, as one sequence."""
    behaviors = k_LD[mask_L][-K:]
    tokens = torch.cat([behaviors, q_D.unsqueeze(0)])
    visible = torch.ones(len(tokens), len(tokens), dtype=torch.bool)
    if how == "history_only":
        visible[:-1, -1] = False
    for layer in model.layers:
        tokens = _norm(layer.after_attention, tokens + _attention(layer, tokens, visible))
        wide = torch.relu(tokens @ layer.widen.weight.T + layer.widen.bias)
        tokens = _norm(layer.after_network, tokens + wide @ layer.narrow.weight.T + layer.narrow.bias)
    return tokens[-1]


@every
def test_every_pair_has_what_a_plain_transformer_makes_of_its_sequence(how, layers):
    model = _built(how, layers)
    q, k, mask = _drawn([0, 1, 4, K, 11], 3)
    found = model(q, k, mask)
    for u in range(len(q)):
        for n in range(q.shape[1]):
            torch.testing.assert_close(found[u, n], _naive(model, q[u, n], k[u], mask[u], how), **CLOSE)


def test_behaviours_that_see_the_ad_matter_from_the_second_layer_on():
    q, k, mask = _drawn([9, 3], 4)
    for layers, alike in ((1, True), (2, False)):
        full, apart = _built("full", layers), _built("history_only", layers)
        apart.load_state_dict(full.state_dict())
        assert torch.allclose(full(q, k, mask), apart(q, k, mask), atol=1e-6) == alike


@every
def test_gradients_are_those_of_the_plain_transformer(how, layers):
    model = _built(how, layers)
    q, k, mask = _drawn([2, 8], 3)
    found = []
    for naive in (False, True):
        ads, history = q.clone().requires_grad_(), k.clone().requires_grad_()
        model.zero_grad()
        if naive:
            pairs = [_naive(model, ads[u, n], history[u], mask[u], how) for u in range(2) for n in range(3)]
            loss = torch.stack(pairs).square().mul(torch.arange(D)).sum()
        else:
            loss = model(ads, history, mask).square().mul(torch.arange(D)).sum()
        loss.backward()
        weights = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found.append([ads.grad, history.grad, *weights])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


@every
def test_only_the_newest_behaviours_are_read(how, layers):
    model = _built(how, layers)
    q, k, mask = _drawn([11, K + 1], 2)
    changed = k.clone()
    changed[:, :-K] += 1.0
    assert torch.equal(model(q, changed, mask), model(q, k, mask))
    changed[:, -K] += 1.0
    assert not torch.allclose(model(q, changed, mask), model(q, k, mask))


@every
def test_padding_company_and_order_change_nothing(how, layers):
    model = _built(how, layers)
    q, k, mask = _drawn([3, 0, 9], 4)
    plain = model(q, k, mask)
    wider = torch.nn.functional.pad(k, (0, 0, 5, 0), value=7.0), torch.nn.functional.pad(mask, (5, 0))
    torch.testing.assert_close(model(q, *wider), plain, **CLOSE)
    order = torch.tensor([2, 0, 3])
    torch.testing.assert_close(model(q[:, order], k, mask), plain[:, order], **CLOSE)
    for u in range(3):
        alone = model(q[u : u + 1], k[u : u + 1], mask[u : u + 1])
        torch.testing.assert_close(alone[0], plain[u], **CLOSE)


@every
def test_an_empty_history_is_the_ad_alone_whatever_its_padding_holds(how, layers):
    model = _built(how, layers)
    q, k, mask = _drawn([0], 3, longest=4)
    found = model(q, k, mask)
    assert found.isfinite().all()
    torch.testing.assert_close(model(q, k + 9.0, mask), found, **CLOSE)
    torch.testing.assert_close(model(q, k[:, :1], mask[:, :1]), found, **CLOSE)


@pytest.mark.filterwarnings("ignore")  # the exporter's own deprecations
@pytest.mark.parametrize(("how", "layers"), [("full", 3), ("history_only", 2)])
def test_the_graph_agrees_with_torch_for_histories_shorter_and_longer(how, layers, tmp_path):
    model = _built(how, layers)
    u, length, n = (torch.export.Dim(name) for name in "ULN")
    logging.disable(logging.ERROR)
    try:
        program = torch.onnx.export(
            model,
            _drawn([3, 2], 4),
            dynamo=True,
            opset_version=20,
            dynamic_shapes=({0: u, 1: n}, {0: u, 1: length}, {0: u, 1: length}),
            input_names=["q", "k", "mask"],
            verbose=False,
        )
    finally:
        logging.disable(logging.NOTSET)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for lengths, ads in (([1], 1), ([0], 3), ([K], 2), ([K - 1, 2], 3), ([40, 7, 0], 5)):
        inputs = _drawn(lengths, ads)
        (found,) = session.run(None, {n: x.numpy() for n, x in zip(("q", "k", "mask"), inputs, strict=True)})
        np.testing.assert_allclose(found, model(*inputs).detach().numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"short_term_heads": 3}, r"short_term_heads \(3\) must divide embedding_width \(32\)"),
        ({"short_term_layers": 0}, "short_term_layers must be > 0, got 0; short_term = 'none' leaves"),
        ({"short_term_length": 0}, "short_term_length must be > 0"),
        ({"short_term": "half"}, "short_term 'half' is none of history_only, full, none"),
    ],
)
def test_an_unfit_setting_is_refused(setting, message):
    with pytest.raises(InputError, match=message):
        DiffuminConfig(**setting)


def test_what_is_left_out_need_not_fit():
    DiffuminConfig(short_term="none", short_term_heads=3)
