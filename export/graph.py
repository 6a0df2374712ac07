"""A trained model becomes an ONNX graph: calibration inside, weights outside, dimensions U, L, N open.

U requests, L behaviours, N candidates.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, cast

import onnx
import torch
from torch import Tensor, nn
from torch.onnx import ONNXProgram

from contract.bundle import GRAPH
from contract.errors import LongsightError
from contract.manifest import Dtype, TensorSpec, input_specs
from contract.schema import Schema
from export.pieces import unroll
from training.calibration import Calibration
from training.models import CtrModel
from training.models.pieces import marked

OPSET: Final = 20
OUTPUTS: Final = tuple(
    TensorSpec(name=name, dtype="float32", shape=("U", "N")) for name in ("logit", "probability")
)

_EXAMPLE: Final = {"U": 2, "L": 3, "N": 5}  # all different and none 1: torch.export fixes what is 1 or equal
_TORCH_DTYPES: Final[dict[Dtype, torch.dtype]] = {
    "int64": torch.int64,
    "float32": torch.float32,
    "bool": torch.bool,
}
_RANDOM: Final = ("Random", "Bernoulli", "Multinomial")
_BY_DATA: Final = {"If", "Loop", "Scan", "SequenceMap", "NonZero", "Compress", "Unique", "NonMaxSuppression"}
"""What runs, or how large a result is, would hang on values: no fixed cost, and no CUDA graph."""


class ServedModel(nn.Module):
    """A model with its calibration: what the graph computes."""

    def __init__(self, model: CtrModel, calibration: Calibration) -> None:
        super().__init__()
        self.model = model
        self.calibration = calibration
        self.inputs = model.inputs
        self.eval()

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return `logit_UN` = a * raw + b and `probability_UN` = sigmoid(logit)."""
        logit_UN = self.model(inputs) * self.calibration.a + self.calibration.b
        return logit_UN, torch.sigmoid(logit_UN)


def graph_inputs(served: ServedModel, schema: Schema) -> tuple[TensorSpec, ...]:
    """Return the tensors that the model takes, in its order."""
    known = input_specs(schema)
    return tuple(known[name] for name in served.inputs)


def write_graph(served: ServedModel, schema: Schema, folder: Path) -> None:
    """Write `model.onnx` and `model.onnx.data` into a folder.

    Raises:
        LongsightError: the model can't be expressed, or its graph breaks a promise of the bundle.

    """
    specs = graph_inputs(served, schema)
    program = trace(served, specs, OUTPUTS, history_length=served.model.history_length)
    with _quiet():
        program.save(folder / GRAPH, external_data=True)
    check_graph(folder / GRAPH, specs, OUTPUTS, history_length=served.model.history_length)


def trace(
    module: nn.Module,
    specs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    *,
    history_length: int,
) -> ONNXProgram:
    """Return a module as ONNX, without the exporter's notes.

    Args:
        module: takes the tensors of `specs` as one mapping, `inputs`, and returns those of `outputs`.
        specs: its inputs.
        outputs: its outputs.
        history_length: largest L.

    Raises:
        LongsightError: it can't be expressed.

    """
    example, shapes = _example(specs, history_length)
    try:
        with _quiet(), marked():
            program = torch.onnx.export(
                module,
                (),
                kwargs={"inputs": example},
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes={"inputs": shapes},
                input_names=[spec.name for spec in specs],
                output_names=[spec.name for spec in outputs],
                verbose=False,
            )
    except Exception as error:
        raise LongsightError(f"the model can't be written as ONNX: {_last_line(error)}") from error
    program = cast("ONNXProgram", program)
    unroll(program.model, history_length=history_length)
    _strip(program)
    return program


def _example(
    specs: tuple[TensorSpec, ...], history_length: int
) -> tuple[dict[str, Tensor], dict[str, dict[int, torch.export.Dim]]]:
    """Return tensors to trace with, and which of their axes stay open."""
    sizes = _EXAMPLE | {"L": min(_EXAMPLE["L"], max(1, history_length))}
    tensors = {
        spec.name: torch.zeros([sizes[str(d)] for d in spec.shape], dtype=_TORCH_DTYPES[spec.dtype])
        for spec in specs
    }
    dims = {
        name: torch.export.Dim(name, min=1, max=history_length if name == "L" else None)
        for name in _open_dims(history_length)
    }
    axes = {
        spec.name: {axis: dims[str(d)] for axis, d in enumerate(spec.shape) if d in dims} for spec in specs
    }
    return tensors, axes


def _open_dims(history_length: int) -> tuple[str, ...]:
    """Return the dimensions that stay open: torch can't name one of which 1 is the only size."""
    return ("U", "N", "L") if history_length > 1 else ("U", "N")


def _strip(program: ONNXProgram) -> None:
    """Drop the exporter's notes: they name this machine's paths, and no one reads them in a bundle."""
    graph = program.model.graph
    program.model.metadata_props.clear()
    program.model.doc_string = None
    graph.metadata_props.clear()
    graph.doc_string = None
    values = [*graph.inputs, *graph.initializers.values()]
    for node in graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        values += node.outputs
    for value in values:
        value.metadata_props.clear()
        value.doc_string = None


def check_graph(
    path: Path, specs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], *, history_length: int
) -> None:
    """Hold a graph to what a bundle promises of it; of one behaviour at most, L is 1.

    Raises:
        LongsightError: the first promise that is broken.

    """
    open_dims = _open_dims(history_length)
    onnx.checker.check_model(path)
    graph = onnx.load(path, load_external_data=False).graph
    names = tuple(value.name for value in graph.input)
    if names != tuple(spec.name for spec in specs):
        raise LongsightError(f"the graph takes {', '.join(names)}: the model does not use all its inputs")
    for node in graph.node:
        foreign = node.domain not in {"", "ai.onnx"}
        if foreign or node.op_type.startswith(_RANDOM) or node.op_type in _BY_DATA:
            raise LongsightError(
                f"the graph holds {node.domain or 'ai.onnx'}.{node.op_type}, which no bundle may"
            )
    for value, spec in zip([*graph.input, *graph.output], [*specs, *outputs], strict=True):
        shape = tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)
        expected = tuple(d if d in open_dims else 1 for d in map(str, spec.shape))
        if shape != expected:
            raise LongsightError(f"the graph fixes the shape of {spec.name} to {shape}, expected {expected}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which prints, logs and warns about its own workings."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error.__cause__ or error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
