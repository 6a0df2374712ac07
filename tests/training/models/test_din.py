"""DIN's activation unit is the paper's, computed another way."""

import pytest
import torch

from training.models import din, rectified
from training.models.din import ActivationUnit
from training.models.masking import HistoryMask


def _naive_unit(unit, q_UND, k_ULD, valid_ULN):
    """[q, k, q - k, s q * k] for every pair, then the MLP: the paper, slowly."""
    shape = (len(q_UND), k_ULD.shape[1], *q_UND.shape[1:])
    q_ULND = q_UND.unsqueeze(1).expand(shape)
    k_ULND = k_ULD.unsqueeze(2).expand(shape)
    hidden = unit.first(
        torch.cat([q_ULND, k_ULND, q_ULND - k_ULND, unit.product_scale * q_ULND * k_ULND], dim=-1)
    )
    for activation, layer in zip(unit.activations, unit.layers, strict=True):
        hidden = layer(activation(hidden, valid_ULN))
    return hidden.squeeze(-1)


@pytest.mark.parametrize("activation", ["dice", "prelu", "relu", "sigmoid"])
@pytest.mark.parametrize("training", [True, False])
def test_the_split_unit_equals_the_naive_one_and_so_do_its_gradients(activation, training):
    torch.manual_seed(3)
    unit = ActivationUnit(6, (9, 4), activation=activation, product_scale=3.0).train(training)
    valid_ULN = torch.rand(3, 5, 4) < 0.7
    results = []
    for form in (unit, lambda *given: _naive_unit(unit, *given)):
        torch.manual_seed(4)
        q_UND = torch.randn(3, 4, 6, requires_grad=True)
        k_ULD = torch.randn(3, 5, 6, requires_grad=True)
        unit.zero_grad()
        weight_ULN = form(q_UND, k_ULD, valid_ULN)
        (weight_ULN * torch.randn(3, 5, 4) * valid_ULN).sum().backward()
        results.append([weight_ULN, q_UND.grad, k_ULD.grad, *(p.grad.clone() for p in unit.parameters())])

    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 5, 7], ids="{} rows a block".format)
@pytest.mark.parametrize("hidden", [(9,), (9, 4), (9, 4, 3)])
@pytest.mark.parametrize("activation", ["prelu", "relu", "sigmoid"])
def test_training_block_by_block_equals_training_at_once(activation, hidden, rows, monkeypatch):
    torch.manual_seed(3)
    unit = ActivationUnit(6, hidden, activation=activation, product_scale=3.0)
    results = []
    for block_bytes in (10**9, 10**9, rows * 4 * 4 * 9):
        monkeypatch.setattr(din, "BLOCK_BYTES", block_bytes)
        monkeypatch.setattr(rectified, "BLOCK_BYTES", block_bytes)
        torch.manual_seed(4)
        q_UND = torch.randn(7, 4, 6, requires_grad=True)
        k_ULD = torch.randn(7, 3, 6, requires_grad=True)
        unit.zero_grad()
        form = unit if results else lambda *given: _naive_unit(unit, *given)
        weight_ULN = form(q_UND, k_ULD, None)
        (weight_ULN * torch.randn(7, 3, 4)).sum().backward()
        results.append([weight_ULN, q_UND.grad, k_ULD.grad, *(p.grad.clone() for p in unit.parameters())])

    for ours in results[1:]:
        torch.testing.assert_close(ours, results[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["prelu", "relu"])
def test_training_keeps_no_hidden_layer_of_a_long_history(activation, monkeypatch):
    monkeypatch.setattr(din, "BLOCK_BYTES", 4 * 8 * 16 * 10)
    unit = ActivationUnit(6, (16, 4), activation=activation, product_scale=3.0)
    kept = []

    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t
    ):
        unit(torch.randn(2, 8, 6, requires_grad=True), torch.randn(2, 50, 6, requires_grad=True), None)

    assert sum(kept) < 2 * 50 * 8 * 16


def test_twice_the_history_is_twice_the_interest(build, draw):
    model = build("din", age=False).eval()
    once = draw([4], 3)
    twice = {name: torch.cat([v, v], 1) if name.startswith("history_") else v for name, v in once.items()}

    def interest(inputs):
        q_UND, k_ULD = model.embedding.ads(inputs), model.embedding.history(inputs)
        return torch.bmm(model.attention(q_UND, k_ULD, inputs, None).transpose(1, 2), k_ULD)

    torch.testing.assert_close(interest(twice), 2 * interest(once), rtol=1e-4, atol=1e-6)


def test_softmax_weights_add_up_to_one_or_to_nothing(build, draw):
    model = build("din", softmax=True).eval()
    inputs = draw([4, 0, 9], 3)

    weight_ULN = model.attention(model.embedding.ads(inputs), model.embedding.history(inputs), inputs, None)

    assert not weight_ULN[~HistoryMask.of(inputs["history_mask"]).valid.bool()].any()
    torch.testing.assert_close(weight_ULN.sum(1), torch.tensor([1.0, 0.0, 1.0]).unsqueeze(1).expand(3, 3))


def test_age_matters_only_when_asked_for(build, draw):
    inputs = draw([4, 7], 3)
    older = inputs | {"history_age": (inputs["history_age"] + 3).clamp(max=33) * inputs["history_mask"]}

    with_age, without = build("din", age=True).eval(), build("din").eval()

    assert (with_age(older) - with_age(inputs)).abs().max() > 1e-4
    assert "history_age" not in without.inputs


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_threads_share_the_requests_and_change_nothing(threads, monkeypatch):
    monkeypatch.setattr(rectified, "BLOCK_BYTES", 2 * 4 * 4 * 9)
    before = torch.get_num_threads()
    torch.manual_seed(3)
    unit = ActivationUnit(6, (9, 4), activation="relu", product_scale=3.0)
    results = []
    for count in (1, threads):
        torch.manual_seed(4)
        q_UND = torch.randn(7, 4, 6, requires_grad=True)
        k_ULD = torch.randn(7, 3, 6, requires_grad=True)
        unit.zero_grad()
        torch.set_num_threads(count)
        try:
            weight_ULN = unit(q_UND, k_ULD, None)
            (weight_ULN * torch.randn(7, 3, 4)).sum().backward()
            assert torch.get_num_threads() == count
        finally:
            torch.set_num_threads(before)
        results.append([weight_ULN, q_UND.grad, k_ULD.grad, *(p.grad.clone() for p in unit.parameters())])

    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)
