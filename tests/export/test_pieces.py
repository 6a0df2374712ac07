"""DIN's graph weighs its ads in pieces, which changes no score."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.support.naive_din import naive
from benchmarks.support.untrained import SCHEMA, tensors, untrained, write
from contract.bundle import EXPLAINED, LEAST_PAIRS
from export import pieces
from export.explain import write_explained
from export.graph import ServedModel
from service.runtime.graph import Graph
from training.calibration import Calibration
from training.models import CtrModel

LENGTH = 40
SIZES = [(1, 1, 1), (1, 1, 40), (1, 2, 40), (1, 15, 40), (1, 16, 7), (1, 17, 7), (1, 100, 33), (3, 21, 9)]
"""U, N, L."""
ACTIVATIONS = ["relu", "prelu", "sigmoid", "dice"]


def din(**settings: object) -> CtrModel:
    model = untrained(
        "din", {"embedding_width": 6, "attention_hidden": [8, 5], **settings}, history_length=LENGTH
    )
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if any(part in name for part in ("bias", "alpha", "prelu", "running")):  # 0 or 1 to begin with
                tensor.copy_(torch.rand_like(tensor) * 0.4 + 0.1)
    return model


def given(names: tuple[str, ...], size: tuple[int, int, int]) -> dict[str, NDArray[Any]]:
    """Return U requests, the second with half a history."""
    requests, ads, length = size
    each = [tensors(names, behaviors=length, candidates=ads, seed=seed) for seed in range(requests)]
    joined = {name: np.concatenate([one[name] for one in each]) for name in names}
    for name in names:
        if name.startswith("history_"):
            joined[name][1:2, : length // 2] = 0
    return joined


def torch_logits(model: CtrModel, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    with torch.inference_mode():
        logit_UN: Tensor = model({name: torch.from_numpy(tensor) for name, tensor in inputs.items()})
        return logit_UN.numpy()


@pytest.fixture(scope="module", autouse=True)
def _small_pieces() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_BYTES", 4 * 8 * 10)
        yield


@pytest.fixture(scope="module", name="path")
def _path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the graph of a DIN in pieces, with Dice."""
    return write(din(attention_activation="dice"), tmp_path_factory.mktemp("din") / "din")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_graph_in_pieces_is_the_naive_model(tmp_path: Path, activation: str) -> None:
    model = din(attention_activation=activation)
    graph = Graph(write(model, tmp_path / "pieces"))
    plain = naive(model)

    assert sum(node.op_type == "Gemm" for node in nodes(tmp_path / "pieces")) == 2 * pieces.MOST
    assert {node.domain for node in nodes(tmp_path / "pieces")} <= {"", "ai.onnx"}
    for size in SIZES:
        inputs = given(graph.inputs, size)
        expected = torch_logits(plain, inputs)
        np.testing.assert_allclose(graph.run(inputs), expected, rtol=0, atol=1e-5, err_msg=str(size))
        np.testing.assert_allclose(torch_logits(model, inputs), expected, rtol=0, atol=1e-5)


def nodes(folder: Path) -> list[onnx.NodeProto]:
    return list(onnx.load(folder / "model.onnx", load_external_data=False).graph.node)


@pytest.mark.parametrize("least", [1, 7, 1 << 40])
def test_however_many_pairs_a_piece_holds_the_scores_are_the_same(path: Path, least: int) -> None:
    options = onnxruntime.SessionOptions()
    value = onnxruntime.OrtValue.ortvalue_from_numpy(np.array([least], dtype=np.int64))
    options.add_initializer(LEAST_PAIRS, value)
    overridden = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    graph = Graph(path)
    for size in SIZES:
        inputs = given(graph.inputs, size)
        (logit_UN,) = overridden.run(["logit"], inputs)
        np.testing.assert_allclose(logit_UN, graph.run(inputs), rtol=0, atol=1e-5)


def test_company_padding_and_order_change_no_score(path: Path) -> None:
    graph = Graph(path)
    inputs = given(graph.inputs, (3, 50, 20))
    logit_UN = graph.run(inputs)

    order = np.random.default_rng(0).permutation(50)
    ads = {name: tensor[:, order] for name, tensor in inputs.items() if name.startswith("ad_")}
    np.testing.assert_allclose(graph.run(inputs | ads), logit_UN[:, order], rtol=0, atol=1e-5)

    few = {name: tensor[:, :3] if name.startswith("ad_") else tensor for name, tensor in inputs.items()}
    np.testing.assert_allclose(graph.run(few), logit_UN[:, :3], rtol=0, atol=1e-5)

    alone = {name: tensor[1:2] for name, tensor in inputs.items()}
    np.testing.assert_allclose(graph.run(alone), logit_UN[1:2], rtol=0, atol=1e-5)

    padded = {
        name: np.pad(tensor, ((0, 0), (20, 0))) if name.startswith("history_") else tensor
        for name, tensor in inputs.items()
    }
    np.testing.assert_allclose(graph.run(padded), logit_UN, rtol=0, atol=1e-5)


def test_short_histories_need_one_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1 << 20)
    path = write(din(), tmp_path / "din")
    assert sum(node.op_type == "Gemm" for node in nodes(tmp_path / "din")) == 2
    assert LEAST_PAIRS not in {
        tensor.name for tensor in onnx.load(path, load_external_data=False).graph.initializer
    }


def test_the_explained_graph_shares_the_pieces(tmp_path: Path) -> None:
    model = din()
    graph = Graph(write(model, tmp_path / "din"))
    write_explained(ServedModel(model, Calibration()), SCHEMA, tmp_path / "din")
    path = tmp_path / "din" / EXPLAINED
    more = onnx.load(path, load_external_data=False).graph

    assert len(more.node) - len(nodes(tmp_path / "din")) <= 4
    inputs = given(graph.inputs, (2, 37, 25))
    logit_UN, weight_UNL = Graph(path).weigh(inputs)
    with torch.inference_mode():
        expected = model.behavior_weights({name: torch.from_numpy(t) for name, t in inputs.items()})
    assert expected is not None
    np.testing.assert_allclose(logit_UN, graph.run(inputs), rtol=0, atol=1e-5)
    np.testing.assert_allclose(weight_UNL, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_cuda_gives_the_same_with_its_empty_pieces(path: Path) -> None:
    cpu, cuda = Graph(path), Graph(path, device="cuda", gpu_memory_bytes=1 << 30)
    for size in SIZES:
        inputs = given(cpu.inputs, size)
        np.testing.assert_allclose(cuda.run(inputs), cpu.run(inputs), rtol=0, atol=1e-4, err_msg=str(size))
