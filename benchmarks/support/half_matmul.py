"""One matrix product in float32, float16 and bfloat16, as a graph that takes and gives float32."""

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

ROWS, INNER, COLUMNS = 4_096, 128, 128
KINDS = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def product(kind: str) -> ModelProto:
    """Return a graph `x` [4096, 128] -> `logit` = x W, W [128, 128], the product in one of `KINDS`."""
    number = KINDS[kind]
    weight = np.random.default_rng(0).normal(size=(INNER, COLUMNS)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["x"], ["x_cast"], to=number),
        helper.make_node("Cast", ["weight"], ["weight_cast"], to=number),
        helper.make_node("MatMul", ["x_cast", "weight_cast"], ["y_cast"]),
        helper.make_node("Cast", ["y_cast"], ["logit"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [ROWS, INNER])],
        [helper.make_tensor_value_info("logit", TensorProto.FLOAT, [ROWS, COLUMNS])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model)
    return model
