import numpy as np
import onnxruntime
import pytest

from contract.bundle import Bundle
from contract.errors import BundleError
from service.errors import DeviceError
from service.runtime import graph as graphs
from service.runtime.graph import Graph
from tests.support.tiny import tiny_bundle

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.fixture(scope="module", name="bundle")
def _bundle(tmp_path_factory):
    return Bundle.open(tiny_bundle(tmp_path_factory.mktemp("graph")))


def feed(graph, tensors):
    return {name: tensors[name] for name in graph.inputs}


def test_the_graph_gives_the_golden_log_odds(bundle):
    graph = Graph(bundle.graph_path)
    assert graph.inputs == bundle.input_names
    for request in bundle.golden():
        logit_UN = graph.run(feed(graph, request.tensors))
        np.testing.assert_allclose(logit_UN[0], request.logit, atol=bundle.manifest.tolerance)


def test_a_file_that_is_no_graph_is_named(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(BundleError, match=r"model\.onnx: onnxruntime can't load it"):
        Graph(tmp_path / "model.onnx")


@pytest.mark.skipif(HAS_CUDA, reason="this onnxruntime has CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_cuda_that_is_not_installed_is_said(bundle, device):
    with pytest.raises(DeviceError, match=rf"device {device}: this onnxruntime .* has no CUDA provider"):
        Graph(bundle.graph_path, device=device)


def test_a_cuda_that_is_installed_but_does_not_start_is_said_too(bundle, monkeypatch):
    # what onnxruntime does without a driver: it lists the provider, warns, and would run on the CPU
    monkeypatch.setattr(graphs, "_providers", lambda _device, _bytes: [graphs.CPU])
    with pytest.raises(DeviceError, match="which was not asked for"):
        Graph(bundle.graph_path, device="cuda")


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu(bundle):
    cpu, cuda = Graph(bundle.graph_path), Graph(bundle.graph_path, device="cuda", gpu_memory_bytes=1 << 30)
    for request in bundle.golden():
        expected, got = (graph.run(feed(graph, request.tensors)) for graph in (cpu, cuda))
        np.testing.assert_allclose(got, expected, atol=bundle.manifest.tolerance)
