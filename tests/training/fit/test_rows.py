"""Adam by touched rows does what dense Adam does, and pays for the touched rows alone."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training.fit.tiny import random_batch, tiny_features
from training.fit.rows import RowAdam
from training.fit.step import SMALL_TABLE, TrainStep
from training.fit.touched import TouchedRows, vocabulary_tables
from training.models import build_model
from training.settings import TrainSettings

ROWS, WIDTH = 300, 4


def _dense(table: torch.Tensor) -> tuple[torch.nn.Parameter, torch.optim.AdamW]:
    parameter = torch.nn.Parameter(table.clone())
    return parameter, torch.optim.AdamW([parameter], lr=0.01, weight_decay=0.0)


@pytest.mark.parametrize("touched", [ROWS, 5], ids=["every row at every step", "few rows of many"])
def test_the_tables_end_where_dense_adam_brings_them(touched):
    torch.manual_seed(0)
    table = torch.randn(ROWS, WIDTH, dtype=torch.float64)
    sparse = torch.nn.Parameter(table.clone())
    adam = RowAdam({"t": sparse})
    dense, optimizer = _dense(table)
    for step in range(400):
        rows = torch.randperm(ROWS)[:touched]
        gradient = torch.randn(touched, WIDTH, dtype=torch.float64)
        rate = 0.01 * (1 - step / 500)
        state = adam.gather("t", rows)
        assert torch.allclose(state.weight, dense[rows].detach(), atol=1e-6)
        adam.begin(rate)
        adam.update("t", rows, state, gradient)
        optimizer.param_groups[0]["lr"] = rate
        dense.grad = torch.zeros_like(dense).index_copy(0, rows, gradient)
        optimizer.step()
    adam.settle()
    assert torch.allclose(sparse, dense, atol=1e-6)
    assert not torch.allclose(sparse, table, atol=0.1)


@pytest.mark.parametrize(("size", "off"), [(1e-3, 1e-5), (1e-5, 1e-3), (1e-8, 0.05)])
def test_small_gradients_bring_a_row_nearly_where_dense_adam_does(size, off):
    """Half of the rows end within `off` of the way that they went."""
    torch.manual_seed(0)
    table = torch.randn(ROWS, WIDTH)
    sparse = torch.nn.Parameter(table.clone())
    adam = RowAdam({"t": sparse})
    dense, optimizer = _dense(table.double())
    for _ in range(600):
        rows = torch.randperm(ROWS)[:6]
        gradient = size * torch.randn(6, WIDTH)
        state = adam.gather("t", rows)
        adam.begin(0.01)
        adam.update("t", rows, state, gradient)
        dense.grad = torch.zeros_like(dense).index_copy(0, rows, gradient.double())
        optimizer.step()
    adam.settle()
    way = (dense - table.double()).norm(dim=1)
    assert ((sparse - dense).norm(dim=1) / way).median() < off


def test_rows_that_no_step_touches_stay_bit_identical():
    table = torch.nn.Parameter(torch.randn(ROWS, WIDTH))
    before = table.detach().clone()
    adam = RowAdam({"t": table})
    rows = torch.tensor([3, 7, 100])
    for _ in range(20):
        state = adam.gather("t", rows)
        adam.begin(0.01)
        adam.update("t", rows, state, torch.ones(3, WIDTH))
    adam.settle()
    others = torch.ones(ROWS, dtype=torch.bool).index_fill(0, rows, value=False)
    assert torch.equal(table[others], before[others])
    assert not torch.equal(table[rows], before[rows])
    kept = adam.state_dict()
    assert not kept["first.t"][others].any()
    assert not kept["second.t"][others].any()
    assert not kept["last.t"][others].any()


def test_to_settle_twice_is_to_settle_once():
    table = torch.nn.Parameter(torch.randn(ROWS, WIDTH))
    adam = RowAdam({"t": table})
    for rows in (torch.tensor([1, 2]), torch.tensor([2, 3]), torch.tensor([9])):
        state = adam.gather("t", rows)
        adam.begin(0.01)
        adam.update("t", rows, state, torch.ones(len(rows), WIDTH))
    adam.settle()
    once = table.detach().clone()
    adam.settle()
    assert torch.equal(table, once)


def test_a_batch_is_renumbered_to_its_distinct_rows_with_padding_first():
    generator = np.random.default_rng(0)
    tensors = {
        "a": generator.integers(0, 50, (4, 30)),
        "b": generator.integers(0, 50, (4, 2)),
        "c": np.ones(3),
    }
    renumberer = TouchedRows({"a": "item", "b": "item"}, {"item": 50})
    for _ in range(2):  # the scratch of one batch must not leak into the next
        local, touched = renumberer.renumber(tensors)
        rows = touched["item"]
        assert rows[0] == 0
        assert sorted(rows) == sorted({0, *tensors["a"].ravel().tolist(), *tensors["b"].ravel().tolist()})
        for name in "ab":
            assert (rows[local[name]] == tensors[name]).all()
        assert local["c"] is tensors["c"]
        tensors["a"] = generator.integers(0, 50, (4, 30))


@pytest.mark.parametrize("model", ["din", "tin", "mean_pool", "diffumin"])
def test_every_parameter_with_vocabulary_rows_is_trained_by_row(model):
    built = build_model(model, tiny_features(1000), {}, history_length=8)
    tables = vocabulary_tables(built)
    assert {name for name, p in built.named_parameters() if len(p.shape) == 2 and len(p) >= 900} == {
        name for name, vocabulary in tables.items() if vocabulary == "item"
    }


class _Largest(TorchDispatchMode):
    """Notes the most elements that any operation returned as new memory."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        known = {
            x.untyped_storage().data_ptr()
            for x in torch.utils._pytree.tree_leaves((args, kwargs))
            if isinstance(x, torch.Tensor)
        }
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in known:
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("model", ["din", "tin", "mean_pool", "diffumin"])
def test_a_step_makes_nothing_of_the_size_of_a_table(model):
    largest = []
    for table_rows in (5_000, 200_000):
        built = build_model(model, tiny_features(table_rows), {"embedding_width": 8}, history_length=8)
        step = TrainStep(built, TrainSettings(history_length=8), steps=9)
        batch = random_batch(built, np.random.default_rng(0), requests=4, rows=1000)
        step.step(batch)
        with _Largest() as watch:
            step.step(batch)
        largest.append(watch.elements)
    assert largest[0] == largest[1] < 200_000


@pytest.mark.parametrize("model", ["din", "tin", "mean_pool", "diffumin"])
def test_padding_rows_stay_zero(model):
    built = build_model(model, tiny_features(SMALL_TABLE), {"embedding_width": 8}, history_length=8)
    step = TrainStep(built, TrainSettings(history_length=8), steps=30)
    generator = np.random.default_rng(0)
    for _ in range(30):
        step.step(random_batch(built, generator, requests=4, rows=200, padded=True))
    step.settle()
    for name in vocabulary_tables(built):
        assert not built.get_parameter(name)[0].any()
        assert built.get_parameter(name)[1:].any()
