"""Work between marks becomes pieces, each for some of the ads, one after the other.

A loop would do, but a bundle's graph holds none: its cost would hang on values, and no device could record it. So the
nodes between the marks (`training.models.pieces`) stand in the graph as often as a long history with many ads needs. A
piece takes as few pairs of an ad and a behaviour as fit into a cache, or more, if there are not pieces enough; where
few pairs do for all, the pieces behind them are empty and cost their nodes' calls alone, half a microsecond each.

U requests, L behaviours, N candidates.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from contract.bundle import LEAST_PAIRS
from training.models.pieces import DOMAIN, PIECE_BYTES

MOST: Final = 16
"""Pieces; more were not faster (N 100, L 1,000 and 5,000)."""
_ADS: Final = 100
"""N that the number of pieces is meant for."""


def unroll(model: ir.Model, *, history_length: int) -> None:
    """Put pieces in the place of marked work, if there is any; changes the model.

    Args:
        model: as traced; of marked work it holds one stretch at most.
        history_length: largest L.

    """
    graph = model.graph
    begins = [node for node in graph if node.domain == DOMAIN and node.op_type == "Begin"]
    if not begins:
        return
    inside, end = _stretch(graph)
    axis, pair_bytes = end.attributes["axis"].as_int(), end.attributes["pair_bytes"].as_int()
    count = min(MOST, max(1, round(_ADS * history_length * pair_bytes / PIECE_BYTES)))
    marked = [begin.outputs[0] for begin in begins]
    given = [begin.inputs[0] for begin in begins]
    tape = _GraphTape(graph)
    if count == 1:
        joined = _repeated(tape, inside, end, dict(zip(marked, given, strict=True)))
    else:
        sizes = _sizes(tape, begins[0], axis=axis, count=count, least_pairs=PIECE_BYTES // pair_bytes)
        pieces = [
            tape.op_multi_out("Split", [tensor, sizes], {"axis": axis}, num_outputs=count) for tensor in given
        ]
        results = [
            _repeated(tape, inside, end, dict(zip(marked, some, strict=True)))
            for some in zip(*pieces, strict=True)
        ]
        joined = tape.op("Concat", results, {"axis": axis})
    graph.insert_before(end, tape.nodes)
    ir.convenience.replace_all_uses_with(end.outputs[0], joined)
    graph.remove([*begins, *inside, end], safe=True)
    graph.opset_imports.pop(DOMAIN, None)


class _GraphTape(Tape):
    """Nodes that wait to be put into a graph, and constants that are there at once."""

    def __init__(self, graph: ir.Graph) -> None:
        super().__init__()
        self._graph = graph

    def constant(self, *numbers: int) -> ir.Value:
        """Return int64 `[len(numbers)]`, the graph's own where it has one: `explain` tells constants by content."""
        array = np.array(numbers, dtype=np.int64)
        for value in self._graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.dtype != ir.DataType.INT64 or value.name == LEAST_PAIRS:
                continue
            if np.array_equal(tensor.numpy(), array):
                return value
        return self.initializer(ir.tensor(array, name="pieces." + "_".join(map(str, numbers))))

    def initializer(self, tensor: ir.TensorProtocol, name: str | None = None) -> ir.Value:
        """Add a constant to the graph."""
        value = super().initializer(tensor, name)
        self._graph.register_initializer(value)
        return value


def _stretch(graph: ir.Graph) -> tuple[list[ir.Node], ir.Node]:
    """Return the nodes between the marks, in order, and the mark at their end."""
    reached: set[ir.Value] = set()
    inside: list[ir.Node] = []
    ends: list[ir.Node] = []
    for node in graph:
        if node.domain == DOMAIN and node.op_type == "Begin":
            reached.update(node.outputs)
        elif reached.intersection(value for value in node.inputs if value is not None):
            if node.domain == DOMAIN:
                ends.append(node)
                continue
            inside.append(node)
            reached.update(node.outputs)
    assert len(ends) == 1, f"{len(ends)} stretches of marked work: this is a bug"
    return inside, ends[0]


def _sizes(tape: _GraphTape, begin: ir.Node, *, axis: int, count: int, least_pairs: int) -> ir.Value:
    """Return how many ads each piece gets, `[count]`: as many as the one before, while there are any."""
    tensor, pairs = begin.inputs
    least = ir.tensor(np.array([least_pairs], dtype=np.int64), name=LEAST_PAIRS)
    ads = tape.op("Shape", [tensor], {"start": axis, "end": axis + 1})
    behaviors = tape.op("Shape", [pairs], {"start": 0, "end": 2})
    pairs_per_ad = tape.op("ReduceProd", [behaviors], {"keepdims": 1})
    by_number = tape.op("Add", [ads, tape.constant(count - 1)])
    by_number = tape.op("Div", [by_number, tape.constant(count)])
    by_pairs = tape.op("Add", [pairs_per_ad, tape.initializer(least)])
    by_pairs = tape.op("Div", [by_pairs, pairs_per_ad])  # rounded up, or one more
    size = tape.op("Max", [by_number, by_pairs])
    before = tape.op("Mul", [size, tape.constant(*range(count))])
    left = tape.op("Max", [tape.op("Sub", [ads, before]), tape.constant(0)])
    return tape.op("Min", [left, size])


def _repeated(
    tape: _GraphTape, nodes: Sequence[ir.Node], end: ir.Node, values: dict[ir.Value, ir.Value | None]
) -> ir.Value:
    """Add the nodes once more, with other values in the place of some; returns what their end would get."""
    for node in nodes:
        inputs = [None if value is None else values.get(value, value) for value in node.inputs]
        outputs = tape.op_multi_out(
            node.op_type,
            inputs,
            node.attributes,
            num_outputs=len(node.outputs),
            version=node.version,
        )
        values.update(zip(node.outputs, outputs, strict=True))
    result = values[end.inputs[0]] if end.inputs[0] is not None else None
    assert result is not None, "marked work without a result: this is a bug"
    return result
