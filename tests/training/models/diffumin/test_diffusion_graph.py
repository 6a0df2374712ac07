"""The sampler as a graph: its steps unrolled, nothing random, the number of requests and ads open."""

import io
import logging

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from training.models.diffumin.config import DiffuminConfig
from training.models.diffumin.diffusion import Diffusion

WIDTH = 8


def draw(*pairs, channels, seed=1):
    generator = torch.Generator().manual_seed(seed)
    r_PcD, o_PcD = torch.randn(2, *pairs, channels, WIDTH, generator=generator)
    return r_PcD * 0.3, torch.linalg.qr(o_PcD.transpose(-1, -2)).Q.transpose(-1, -2).contiguous()


def _graph(diffusion, channels):
    u, n = torch.export.Dim("U"), torch.export.Dim("N")
    logging.disable(logging.ERROR)  # the tracer writes a book of debug lines, which pytest would keep
    try:
        program = torch.onnx.export(
            diffusion,
            draw(2, 3, channels=channels),
            dynamo=True,
            opset_version=20,
            dynamic_shapes=({0: u, 1: n}, {0: u, 1: n}),
            input_names=["r", "o"],
            verbose=False,
        )
    finally:
        logging.disable(logging.NOTSET)
    file = io.BytesIO()
    program.save(file)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore")  # the exporter's own deprecations
@pytest.mark.parametrize(
    "config",
    [
        {"denoiser_layers": 3, "diffusion_steps": 2},
        {"channels": 1, "diffusion_steps": 1},
        {"paper_literal": True, "diffusion_steps": 2},
    ],
    ids=str,
)
def test_the_unrolled_sampler_is_a_graph_of_any_u_and_n_without_a_random_operator(config):
    channels = config.get("channels", 4)
    torch.manual_seed(0)
    diffusion = Diffusion(DiffuminConfig(embedding_width=WIDTH, **config)).eval()
    model = _graph(diffusion, channels)
    session = onnxruntime.InferenceSession(model)

    for u, n in ((1, 1), (1, 7), (3, 2)):
        r_UNcD, o_UNcD = draw(u, n, channels=channels, seed=u * n)
        r_UNcD[0, 0, 0] = 0
        with torch.no_grad():
            expected = diffusion(r_UNcD, o_UNcD).numpy()
        (got,) = session.run(None, {"r": r_UNcD.numpy(), "o": o_UNcD.numpy()})
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)

    operators = {node.op_type for node in onnx.load_model_from_string(model).graph.node}
    assert not {name for name in operators if name.startswith(("Random", "Bernoulli", "Multinomial"))}
    assert not operators & {"If", "Loop", "Scan", "NonZero"}
