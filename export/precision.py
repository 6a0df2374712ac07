"""A graph's tables in few bytes: rows are kept as float16 or int8, and only those that are read become float32.

A table is what the graph reads row by row: embeddings, the ads' biases. The weights of its layers stay as they are, and
so does all arithmetic. The conversion stands behind the read, so no session ever holds a table of float32.

fp16: the nearest float16 of every number. int8: `round(127 x / s)` with the row's largest magnitude s, and s / 127 as
float32 beside it; a table so narrow that this takes no less is kept as float16. A table too small to matter stays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from contract.bundle import EXPLAINED, GRAPH
from contract.errors import InputError, LongsightError

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "fp16", "int8")
DATA: Final = f"{GRAPH}.data"

SMALLEST_SHARE: Final = 0.01
"""Of all tables' bytes: less saves next to nothing and costs a run as many nodes."""

_LARGEST_FP16: Final = float(np.finfo(np.float16).max)
_LARGEST_INT8: Final = 127
_SCALE_BYTES: Final = 4


@dataclass(frozen=True)
class Stored:
    """A table `[R, W]` as it is kept."""

    number: NDArray[np.float16] | NDArray[np.int8]
    """`[R, W]`."""
    scale: NDArray[np.float32] | None = None
    """`[R, 1]` what a row of int8 is multiplied with."""

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.number.nbytes + (0 if self.scale is None else self.scale.nbytes)


@dataclass(frozen=True)
class Reduced:
    """What was stored in fewer bytes."""

    tables: int
    fp32_table_bytes: int
    table_bytes: int


def store(name: str, table_RW: NDArray[np.float32], precision: Precision) -> Stored:
    """Return a table in fewer bytes.

    Raises:
        LongsightError: float16 can't hold one of its numbers.

    """
    width = table_RW.shape[1]
    if precision == "int8" and width + _SCALE_BYTES < 2 * width:
        scale_R1 = np.abs(table_RW).max(axis=1, keepdims=True) / np.float32(_LARGEST_INT8)
        divisor_R1 = np.where(scale_R1 > 0, scale_R1, 1)
        number_RW = np.rint(table_RW / divisor_R1).clip(-_LARGEST_INT8, _LARGEST_INT8)
        return Stored(number_RW.astype(np.int8), scale_R1.astype(np.float32))
    largest = float(np.abs(table_RW).max(initial=0.0))
    if largest > _LARGEST_FP16:
        raise LongsightError(
            f"--precision {precision}: {name} holds a number of magnitude {largest:.6g}, float16 ends at "
            f"{_LARGEST_FP16:.0f}; nothing was written; leave --precision out, or train the run anew"
        )
    return Stored(table_RW.astype(np.float16))


def write_reduced(
    plain: Path, folder: Path, *, precision: Precision, smallest_share: float = SMALLEST_SHARE
) -> Reduced:
    """Write the graphs of a folder into another, their tables in fewer bytes.

    Args:
        plain: holds `model.onnx` with its weights, and maybe `explain.onnx`; left as it is.
        folder: gets the same files, again with one file of weights for both graphs.
        precision: of the tables.
        smallest_share: of all tables' bytes; those that hold less stay as they are.

    Raises:
        InputError: the graph reads no table.
        LongsightError: a table does not fit.

    """
    model = ir.load(plain / GRAPH)
    names = tables(model.graph)
    if not names:
        raise InputError(
            f"--precision {precision}: this graph reads no table row by row, so nothing gets smaller; leave it out"
        )
    arrays = {name: _array(model.graph, name) for name in names}
    least = smallest_share * sum(array.nbytes for array in arrays.values())
    stored = {name: store(name, array, precision) for name, array in arrays.items() if array.nbytes >= least}
    keep(model.graph, stored)
    ir.save(model, folder / GRAPH, external_data=DATA)
    if (plain / EXPLAINED).exists():
        explained = ir.load(plain / EXPLAINED)
        keep(explained.graph, stored)
        for name, value in ir.load(folder / GRAPH).graph.initializers.items():
            explained.graph.initializers[name].const_value = value.const_value
        ir.save(explained, folder / EXPLAINED)
    return Reduced(
        tables=len(stored),
        fp32_table_bytes=sum(4 * table.number.size for table in stored.values()),
        table_bytes=sum(table.nbytes for table in stored.values()),
    )


def tables(graph: ir.Graph) -> list[str]:
    """Return the names of the float32 matrices that a graph reads by row and in no other way."""
    return [
        name
        for name, value in graph.initializers.items()
        if value.dtype == ir.DataType.FLOAT
        and value.shape is not None
        and len(value.shape) == 2
        and value.uses()
        and all(_reads_rows(node, index) for node, index in value.uses())
    ]


def keep(graph: ir.Graph, stored: Mapping[str, Stored]) -> None:
    """Put stored tables in the place of those of a graph, and conversions behind their reads; changes the graph."""
    for name, table in stored.items():
        value = graph.initializers[name]
        reads = [node for node, _ in value.uses()]
        assert all(_reads_rows(*use) for use in value.uses()), (
            f"{name} is not only read by row: this is a bug"
        )
        _set(value, table.number)
        scale = None
        if table.scale is not None:
            scale = ir.Value(name=f"{name}.scale")
            _set(scale, table.scale)
            graph.register_initializer(scale)
        for read in reads:
            _convert(graph, read, scale)


def _reads_rows(node: ir.Node, index: int) -> bool:
    """Tell whether a node picks rows of its input, which rows being known only when it runs."""
    axis = node.attributes.get("axis")
    rows = node.inputs[1] if len(node.inputs) > 1 else None
    return (
        node.op_type == "Gather"
        and index == 0
        and (axis is None or axis.as_int() == 0)
        and rows is not None
        and not rows.is_initializer()
    )


def _convert(graph: ir.Graph, read: ir.Node, scale: ir.Value | None) -> None:
    """Make float32 of what a read gives, under the name and for the readers that it had."""
    rows, index = read.outputs[0], read.inputs[1]
    name = str(rows.name)
    table = read.inputs[0]
    assert table is not None
    result = _like(rows, name)
    rows.replace_all_uses_with(result, replace_graph_outputs=True)
    rows.name, rows.type = f"{name}.stored", table.type
    cast = {"to": ir.DataType.FLOAT}
    if scale is None:
        added: Sequence[ir.Node] = [_node("Cast", [rows], result, attributes=cast)]
    else:
        number, factor = _like(rows, f"{name}.number"), ir.Value(name=f"{name}.scale")
        added = [
            _node("Cast", [rows], number, attributes=cast),
            _node("Gather", [scale, index], factor, attributes={"axis": 0}),
            _node("Mul", [number, factor], result),
        ]
    graph.insert_after(read, added)


def _node(
    kind: str,
    inputs: Sequence[ir.Value | None],
    output: ir.Value,
    *,
    attributes: Mapping[str, int] | None = None,
) -> ir.Node:
    return ir.node(kind, inputs, attributes, outputs=[output], name=f"{output.name}.{kind}")


def _like(value: ir.Value, name: str) -> ir.Value:
    return ir.Value(name=name, shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT))


def _set(value: ir.Value, array: NDArray[np.generic]) -> None:
    tensor = ir.tensor(array, name=value.name)
    value.const_value, value.shape = tensor, ir.Shape(array.shape)
    value.type = ir.TensorType(tensor.dtype)


def _array(graph: ir.Graph, name: str) -> NDArray[np.float32]:
    tensor = graph.initializers[name].const_value
    assert tensor is not None
    return np.asarray(tensor.numpy(), dtype=np.float32)
