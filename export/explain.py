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
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper
from torch import Tensor, nn
from torch.onnx import ONNXProgram

from contract.bundle import EXPLAINED, GRAPH, LEAST_PAIRS
from contract.golden import GoldenRequest
from contract.manifest import TensorSpec
from contract.schema import Schema
from export.explained_parity import WEIGHT, check_explained
from export.graph import OUTPUTS, ServedModel, check_graph, graph_inputs, trace
from export.parity import Gaps, as_torch
from export.verify import Session
from training.models import CtrModel

OUTPUT: Final = TensorSpec(name=WEIGHT, dtype="float32", shape=("U", "N", "L"))

_PREFIX: Final = "explain."
_LARGEST_OWN: Final = 1 << 20  # bytes of initialisers that only the weights need; tables are shared

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
    served: ServedModel,
    schema: Schema,
    folder: Path,
    golden: Sequence[GoldenRequest],
    *,
    gaps: Gaps | None = None,
) -> float | None:
    """Write `explain.onnx` beside a finished `model.onnx` and prove it; a model without weights gets none.

    Args:
        served: the model of that graph.
        schema: its fields.
        folder: holds `model.onnx` and its weights.
        golden: requests to prove it with.
        gaps: of a model that picks; see `parity`.

    Returns:
        The largest difference of a weight from torch's on the golden requests; None: there are no weights.

    Raises:
        LongsightError: see `write_explained` and `check_explained`.

    """
    if served.model.behavior_weights(as_torch(served, golden[0].tensors)) is None:
        return None
    write_explained(served, schema, folder)
    plain, explained = Session(folder / GRAPH), Session(folder / EXPLAINED)
    return check_explained(served, plain, explained, golden, gaps=gaps)


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
    program = trace(_Weights(served.model), specs, (OUTPUT,), history_length=length)
    model = onnx.load(folder / GRAPH, load_external_data=False)
    _Graft(model.graph, folder).add(program)
    onnx.save(model, folder / EXPLAINED)
    check_graph(folder / EXPLAINED, specs, (*OUTPUTS, OUTPUT), history_length=length)


class _Graft:
    """Adds another graph's outputs to a graph, and of its nodes and tensors those that are missing.

    Args:
        graph: changed in place.
        folder: of its external weights.

    """

    def __init__(self, graph: GraphProto, folder: Path) -> None:
        self._graph = graph
        self._tensors = {
            _digest(tensor.name, numpy_helper.to_array(tensor, str(folder))): tensor.name
            for tensor in graph.initializer
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
            names[name] = self._tensors.get(_digest(name, array)) or self._added(name, array)
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


def _digest(name: str, array: NDArray[np.generic]) -> str:
    """Return what tells tensors apart: their content, but for the one that may be overridden by its name."""
    if name == LEAST_PAIRS:
        return name
    content = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
    return f"{array.dtype}{list(array.shape)}{content}"
