"""Every model becomes an ONNX graph of any U, L and N that computes the same."""

import logging

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporter's own deprecations

TRACED = ([3, 5], 4)
SIZES = {
    "one of everything": ([1], 1),
    "an empty history": ([0], 3),
    "a full one": ([12], 7),
    "three requests": ([2, 0, 9], 5),
    "one candidate each": ([4, 1, 3, 2], 1),
}


class _Positional(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *tensors):
        return self.model(dict(zip(self.model.inputs, tensors, strict=True)))


def _axes(name):
    u, length, n = (torch.export.Dim(letter) for letter in "ULN")
    if name.startswith("history_"):
        return {0: u, 1: length}
    return {0: u} if name.startswith("user_") else {0: u, 1: n}


def _export(model, inputs, path):
    logging.disable(logging.ERROR)  # the tracer writes a book of debug lines, which pytest would keep
    try:
        program = torch.onnx.export(
            _Positional(model).eval(),
            tuple(inputs[name] for name in model.inputs),
            dynamo=True,
            opset_version=20,
            dynamic_shapes=(tuple(_axes(name) for name in model.inputs),),
            input_names=list(model.inputs),
            output_names=["logit"],
            verbose=False,
        )
    finally:
        logging.disable(logging.NOTSET)
    program.save(path)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("din", {"attention_activation": "dice"}),
        ("tin", {}),
        ("diffumin", {"diffusion_steps": 2, "short_term_length": 5}),
        (
            "diffumin",
            {"diffusion": False, "aggregation": "score", "short_term": "full", "short_term_layers": 2},
        ),
        ("diffumin", {"paper_literal": True, "diffusion_steps": 2, "routing": False, "short_term": "none"}),
        ("mean_pool", {}),
        ("popularity", {}),
    ],
)
def test_the_graph_agrees_with_torch_at_every_size(build, draw, tmp_path, name, config):
    model = build(name, **config)
    path = tmp_path / "model.onnx"
    _export(model, draw(*TRACED), path)
    session = onnxruntime.InferenceSession(path)

    assert {value.name for value in session.get_inputs()} == set(model.inputs)
    for case, (lengths, candidates) in SIZES.items():
        inputs = draw(lengths, candidates, seed=len(lengths))
        with torch.no_grad():
            expected = model(inputs).numpy()
        (logit_UN,) = session.run(None, {name: inputs[name].numpy() for name in model.inputs})
        np.testing.assert_allclose(logit_UN, expected, rtol=0, atol=1e-4, err_msg=case)

    graph = onnx.load(path).graph
    operators = {node.op_type for node in graph.node}
    assert not operators & {"If", "Loop", "Scan", "NonZero", "RandomNormal", "RandomUniform", "Dropout"}
    assert next(o for o in onnx.load(path).opset_import if o.domain == "").version == 20
