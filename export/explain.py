"""`explain.onnx`: the graph once more, with one output that says what each behaviour counted.

Two graphs, since an output costs its time also where nobody fetches it. The weights' own nodes are traced apart and
grafted on the finished `model.onnx`: a node that is there already is used, not repeated, and every initialiser stays
where it lies, in `model.onnx.data`. So `logit` is computed by the very nodes of `model.onnx`, and a bundle hardly
grows.

U requests, N candidates, L behaviours.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import onnx
import onnx_ir
import torch
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper
from torch import Tensor, nn
from torch.onnx import ONNXProgram

from contract.bundle import EXPLAINED, GRAPH
from contract.encoder import Tensors
from contract.errors import LongsightError
from contract.golden import GoldenRequest
from contract.manifest import TensorSpec
from contract.schema import Schema
from export.graph import OUTPUTS, ServedModel, check_graph, graph_inputs, trace
from export.parity import FP32_TOLERANCE, stack
from export.verify import LOGIT, Session
from training.models import CtrModel

WEIGHT: Final = TensorSpec(name="weight", dtype="float32", shape=("U", "N", "L"))

_PREFIX: Final = "explain."
_LARGEST_OWN: Final = 1 << 20  # bytes of initialisers that only the weights need; tables are shared
_TOGETHER: Final = 4  # requests of one mixed batch

_Signature: TypeAlias = tuple[str, bytes, tuple[str, ...]]


class _Weights(nn.Module):
    """What a model's behaviours counted, as the one output of a graph."""

    def __init__(self, model: CtrModel) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        weight_UNL = self.model.behavior_weights(inputs)
        assert weight_UNL is not None, "asked for the weights of a model without any: this is a bug"
        return weight_UNL


def explain(
    served: ServedModel, schema: Schema, folder: Path, golden: Sequence[GoldenRequest]
) -> float | None:
    """Write `explain.onnx` beside a finished `model.onnx` and prove it; a model without weights gets none.

    Returns:
        The largest difference of a weight from torch's on the golden requests; None: there are no weights.

    Raises:
        LongsightError: see `write_explained` and `check_explained`.

    """
    if served.model.behavior_weights(_as_torch(served, golden[0].tensors)) is None:
        return None
    write_explained(served, schema, folder)
    return check_explained(served, folder, golden)


def write_explained(served: ServedModel, schema: Schema, folder: Path) -> None:
    """Write `explain.onnx` beside a finished `model.onnx`.

    Args:
        served: the model of that graph; it weighs behaviours.
        schema: its fields.
        folder: holds `model.onnx` and its weights.

    Raises:
        LongsightError: the weights can't be expressed, or the graph breaks a promise of the bundle.

    """
    specs, length = graph_inputs(served, schema), served.model.history_length
    program = trace(_Weights(served.model), specs, (WEIGHT,), history_length=length)
    model = onnx.load(folder / GRAPH, load_external_data=False)
    _Graft(model.graph, folder).add(program)
    onnx.save(model, folder / EXPLAINED)
    check_graph(folder / EXPLAINED, specs, (*OUTPUTS, WEIGHT), history_length=length)


class _Graft:
    """Adds another graph's outputs to a graph, and of its nodes and tensors those that are missing.

    Args:
        graph: changed in place.
        folder: of its external weights.

    """

    def __init__(self, graph: GraphProto, folder: Path) -> None:
        self._graph = graph
        self._tensors = {
            _digest(numpy_helper.to_array(tensor, str(folder))): tensor.name for tensor in graph.initializer
        }
        self._nodes: dict[_Signature, NodeProto] = {}
        for node in graph.node:
            self._nodes.setdefault(_signature(node), node)

    def add(self, program: ONNXProgram) -> None:
        """Add the outputs of a graph that takes the same inputs."""
        other = program.model.graph
        names = {str(value.name): str(value.name) for value in other.inputs}
        own_bytes = 0
        for name, value in other.initializers.items():
            assert value.const_value is not None
            array = value.const_value.numpy()
            names[name] = self._tensors.get(_digest(array)) or self._added(name, array)
            own_bytes += array.nbytes if names[name].startswith(_PREFIX) else 0
        assert own_bytes <= _LARGEST_OWN, f"{own_bytes} bytes of the weights' own: a table lies there twice"
        for node in other:
            self._add_node(onnx_ir.to_proto(node), names)
        for output in other.outputs:
            self._add_output(onnx_ir.to_proto(output), names)

    def _added(self, name: str, array: NDArray[np.generic]) -> str:
        tensor: TensorProto = numpy_helper.from_array(array, _PREFIX + name)
        self._graph.initializer.append(tensor)
        return _PREFIX + name

    def _add_node(self, node: NodeProto, names: dict[str, str]) -> None:
        inputs = [names[name] if name else "" for name in node.input]
        node.ClearField("input")
        node.input.extend(inputs)
        known = self._nodes.get(_signature(node))
        if known is not None:
            names.update(zip(node.output, known.output, strict=True))
            return
        outputs = [_PREFIX + name if name else "" for name in node.output]
        names.update(zip(node.output, outputs, strict=True))
        node.ClearField("output")
        node.output.extend(outputs)
        node.name = _PREFIX + node.name
        self._graph.node.append(node)

    def _add_output(self, output: onnx.ValueInfoProto, names: Mapping[str, str]) -> None:
        self._graph.node.append(onnx.helper.make_node("Identity", [names[output.name]], [output.name]))
        self._graph.output.append(output)


def _signature(node: NodeProto) -> _Signature:
    """Return what makes two nodes compute the same."""
    attributes = b"".join(sorted(attribute.SerializeToString() for attribute in node.attribute))
    return f"{node.domain}.{node.op_type}.{len(node.output)}", attributes, tuple(node.input)


def _digest(array: NDArray[np.generic]) -> str:
    content = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
    return f"{array.dtype}{list(array.shape)}{content}"


def check_explained(served: ServedModel, folder: Path, golden: Sequence[GoldenRequest]) -> float:
    """Hold `explain.onnx` to `model.onnx` and to torch, on every golden request, alone and in company.

    Returns:
        The largest difference of a weight from torch's.

    Raises:
        LongsightError: log-odds or weights that differ by more than `FP32_TOLERANCE`; names the request.

    """
    plain, explained = Session(folder / GRAPH), Session(folder / EXPLAINED)
    largest = 0.0
    alone: list[NDArray[np.float32]] = []
    for index, request in enumerate(golden):
        place = f"golden request {index} ({request.about})"
        found = explained.run(request.tensors)
        alone.append(found[WEIGHT.name])
        apart = float(np.abs(found[LOGIT] - plain.logits(request.tensors)).max())
        if not apart <= FP32_TOLERANCE:
            raise LongsightError(f"{place}: {EXPLAINED} and {GRAPH} differ by {apart:.3g} in log-odds")
        difference = _difference(found[WEIGHT.name], torch_weights(served, request.tensors))
        if not difference <= FP32_TOLERANCE:
            raise LongsightError(f"{place}: the weights of {EXPLAINED} and torch differ by {difference:.3g}")
        largest = max(largest, difference)
    for begin in range(0, len(golden), _TOGETHER):
        some = slice(begin, begin + _TOGETHER)
        together = explained.run(stack([request.tensors for request in golden[some]]))[WEIGHT.name]
        if not _in_company(together, alone[some]) <= FP32_TOLERANCE:
            raise LongsightError(f"{EXPLAINED}: a request has other weights in a batch than alone")
    return largest


def torch_weights(served: ServedModel, tensors: Tensors) -> NDArray[np.float32]:
    """Return `weight_UNL` of one encoded request, computed by torch."""
    with torch.inference_mode():
        weight_UNL = served.model.behavior_weights(_as_torch(served, tensors))
    assert weight_UNL is not None, "asked for the weights of a model without any: this is a bug"
    weight: NDArray[np.float32] = weight_UNL.numpy()
    return weight


def _as_torch(served: ServedModel, tensors: Tensors) -> dict[str, Tensor]:
    return {name: torch.from_numpy(tensors[name]) for name in served.inputs}


def _in_company(weight_UNL: NDArray[np.float32], alone: Sequence[NDArray[np.float32]]) -> float:
    """Return the largest difference between requests in a padded batch and alone; padding weighs 0."""
    largest = 0.0
    for row_NL, alone_1NL in zip(weight_UNL, alone, strict=True):
        _, count, length = alone_1NL.shape
        padding = float(np.abs(row_NL[:, : row_NL.shape[1] - length]).max(initial=0.0))
        largest = max(largest, padding, _difference(row_NL[None, :count, -length:], alone_1NL))
    return largest


def _difference(weight_UNL: NDArray[np.float32], expected_UNL: NDArray[np.float32]) -> float:
    """Return the largest difference, relative where weights are large; infinite between different shapes."""
    if weight_UNL.shape != expected_UNL.shape:
        return float("inf")
    difference_UNL = np.abs(weight_UNL - expected_UNL) / np.maximum(np.abs(expected_UNL), 1.0)
    return float(difference_UNL.max())
