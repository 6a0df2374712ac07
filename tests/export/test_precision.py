"""Tables in fewer bytes: what is kept, what is read, and what a session holds of it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from contract.bundle import Bundle
from contract.errors import InputError, LongsightError
from export.precision import store, tables, write_reduced
from export.verify import Session
from tests.support.tiny import tiny_bundle

MODELS = ["tin", "din", "diffumin", "mean_pool", "popularity"]
FLOAT, FLOAT16, INT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8


@pytest.fixture(scope="module", params=MODELS, name="bundle")
def _bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(tiny_bundle(tmp_path_factory.mktemp(request.param), request.param))


@pytest.fixture(name="half")
def _half(bundle: Bundle, tmp_path: Path) -> Path:
    return reduced(bundle.path, tmp_path / "half", "fp16")


def reduced(plain: Path, folder: Path, precision: str) -> Path:
    folder.mkdir()
    write_reduced(plain, folder, precision=precision)
    return folder


def graph_of(path: Path, *, weights: bool = True) -> onnx.GraphProto:
    return onnx.load(path, load_external_data=weights).graph


def types_of(graph: onnx.GraphProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in graph.initializer}


def lookup(folder: Path, table: np.ndarray, *nodes: onnx.NodeProto, **more: np.ndarray) -> Path:
    """Write a graph that reads a table by rows [U, L], and whatever else; returns its folder."""
    folder.mkdir()
    everything = (helper.make_node("Gather", ["table", "rows"], ["logit"]), *nodes)
    graph = helper.make_graph(
        everything,
        "lookup",
        [helper.make_tensor_value_info("rows", TensorProto.INT64, ["U", "L"])],
        [helper.make_tensor_value_info(node.output[0], FLOAT, None) for node in everything],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.array([1, 0]), "fixed"),
            *(numpy_helper.from_array(array, name) for name, array in more.items()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data")
    return folder


# ---------------------------------------------------------------- what a graph becomes


def test_every_table_is_float16_and_rows_become_float32_once_read(half: Path) -> None:
    graph = graph_of(half / "model.onnx")
    types, outputs = types_of(graph), {value.name for value in graph.output}
    read = [node for node in graph.node if node.op_type == "Gather" and types.get(node.input[0]) == FLOAT16]
    assert {node.input[0] for node in read} == {name for name, kind in types.items() if kind == FLOAT16}
    assert read
    for node in read:
        (reader,) = (other for other in graph.node if node.output[0] in other.input)
        assert reader.op_type == "Cast"
        assert [attribute.i for attribute in reader.attribute] == [FLOAT]
        assert node.output[0] not in outputs
    assert tables(ir.load(half / "model.onnx").graph) == []


def test_all_but_the_tables_stays_as_it_was(bundle: Bundle, half: Path) -> None:
    before, after = graph_of(bundle.graph_path), graph_of(half / "model.onnx")
    kept = [node.op_type for node in after.node if node.op_type != "Cast"]
    assert kept == [node.op_type for node in before.node if node.op_type != "Cast"]
    assert [value.name for value in after.input] == [value.name for value in before.input]
    assert list(after.output) == list(before.output)
    types = types_of(after)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in after.initializer}
    for tensor in before.initializer:
        array = numpy_helper.to_array(tensor)
        if types[tensor.name] == FLOAT16:
            array = array.astype(np.float16)
        assert np.array_equal(arrays[tensor.name], array)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_explanations_share_the_weights_and_the_scores(
    bundle: Bundle, tmp_path: Path, precision: str
) -> None:
    folder = reduced(bundle.path, tmp_path / "reduced", precision)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in bundle.path.iterdir() if ".onnx" in path.name
    )
    if bundle.explained_path is None:
        return
    plain, more = (
        onnx.load(folder / name, load_external_data=False).graph for name in ("model.onnx", "explain.onnx")
    )
    assert list(more.node)[: len(plain.node)] == list(plain.node)
    own = {tensor.name: tensor for tensor in more.initializer}
    assert [own[tensor.name] for tensor in plain.initializer] == list(plain.initializer)
    outside = [tensor for tensor in more.initializer if tensor.external_data]
    assert {e.value for t in outside for e in t.external_data if e.key == "location"} == {"model.onnx.data"}
    scores, explained = Session(folder / "model.onnx"), Session(folder / "explain.onnx")
    before = Session(bundle.explained_path)
    for request in bundle.golden():
        found = explained.run(request.tensors)
        np.testing.assert_allclose(found["logit"], scores.logits(request.tensors), rtol=0, atol=1e-5)
        if not bundle.manifest.hard_routing:  # another pick makes another weight
            weight = before.run(request.tensors)["weight"]
            assert np.abs(found["weight"] - weight).max() < (0.005 if precision == "fp16" else 0.1)


def test_a_row_of_int8_is_as_near_as_its_largest_number_allows(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
    table *= np.logspace(-6, 6, 50, dtype=np.float32)[:, None]
    table[7] = 0
    plain = lookup(tmp_path / "plain", table)
    folder = reduced(plain, tmp_path / "reduced", "int8")
    types = types_of(graph_of(folder / "model.onnx"))
    assert (types["table"], types["table.scale"]) == (INT8, FLOAT)
    session = Session(folder / "model.onnx")
    read = session.run({"rows": np.arange(50)[None]})["logit"][0]
    assert not read[7].any()
    step = np.abs(table).max(axis=1, keepdims=True) / 127
    assert (np.abs(read - table) <= 0.5001 * step).all()
    assert (folder / "model.onnx.data").stat().st_size < 0.3 * (plain / "model.onnx.data").stat().st_size


@pytest.mark.parametrize(("width", "kind"), [(1, np.float16), (4, np.float16), (5, np.int8), (64, np.int8)])
def test_a_table_is_int8_where_that_is_less_than_float16(width: int, kind: type) -> None:
    stored = store("t", np.ones((3, width), dtype=np.float32), "int8")
    assert stored.number.dtype == kind
    assert stored.nbytes == min(3 * (width + 4), 6 * width)


def test_a_number_beyond_float16_is_refused_with_its_place() -> None:
    table = np.array([[1.0, -70_000.0]], dtype=np.float32)
    with pytest.raises(
        LongsightError, match="colours holds a number of magnitude 70000, float16 ends at 65504"
    ):
        store("colours", table, "fp16")
    assert np.isfinite(store("colours", np.full((1, 9), 7e4, np.float32), "int8").number).all()


def test_a_table_that_is_next_to_nothing_stays_as_it_is(tmp_path: Path) -> None:
    few = helper.make_node("Gather", ["few", "rows"], ["z"])
    plain = lookup(
        tmp_path / "plain", np.ones((1000, 64), dtype=np.float32), few, few=np.ones((2, 64), np.float32)
    )
    types = types_of(graph_of(reduced(plain, tmp_path / "half", "fp16") / "model.onnx"))
    assert (types["table"], types["few"]) == (FLOAT16, FLOAT)


# ---------------------------------------------------------------- what is a table


@pytest.mark.parametrize(
    "other",
    [
        helper.make_node("Identity", ["table"], ["z"]),
        helper.make_node("Gather", ["table", "rows"], ["z"], axis=1),
        helper.make_node("Gather", ["table", "fixed"], ["z"]),
    ],
    ids=["as a whole", "by column", "rows that are always the same"],
)
def test_what_is_read_in_another_way_too_is_none(tmp_path: Path, other: onnx.NodeProto) -> None:
    table = np.ones((200, 200), dtype=np.float32)
    assert tables(ir.load(lookup(tmp_path / "one", table) / "model.onnx").graph) == ["table"]
    plain = lookup(tmp_path / "plain", table, other)
    with pytest.raises(InputError, match="--precision fp16: this graph reads no table row by row"):
        reduced(plain, tmp_path / "reduced", "fp16")
    assert not list((tmp_path / "reduced").iterdir())


# ---------------------------------------------------------------- what a session holds


def test_a_session_keeps_the_tables_as_they_are(half: Path, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(half / "model.onnx", options)
    before = types_of(graph_of(half / "model.onnx"))
    after = types_of(graph_of(tmp_path / "optimised.onnx", weights=False))
    halved = {name for name, kind in before.items() if kind == FLOAT16}
    assert {name for name, kind in after.items() if kind == FLOAT16} == halved
    assert all(before[name] == kind for name, kind in after.items() if name in before)


def test_a_process_holds_a_large_table_in_its_few_bytes(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(400_000, 64)).astype(np.float32)
    folders = {"fp32": lookup(tmp_path / "fp32", table)}
    folders |= {name: reduced(folders["fp32"], tmp_path / name, name) for name in ("fp16", "int8")}
    np.savez(tmp_path / "tensors.npz", rows=np.arange(0, len(table), 16)[None])  # every page is read
    script = Path(__file__).parents[2] / "benchmarks" / "support" / "graph_memory.py"
    held = {}
    for name, folder in folders.items():
        command = [sys.executable, str(script), str(folder / "model.onnx"), str(tmp_path / "tensors.npz")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=script.parents[2])
        found = json.loads(done.stdout)
        held[name] = found["peak_mb"] - found["before_mb"]
    table_mb = table.nbytes / 1e6
    assert held["fp32"] > table_mb
    assert held["fp16"] < held["fp32"] - 0.3 * table_mb
    assert held["int8"] < held["fp16"]
