"""Runs a graph that was just written, with onnxruntime, so that `parity` can hold it against torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from contract.encoder import Tensors
from contract.errors import BundleError

LOGIT = "logit"


class Session:
    """An ONNX graph on one CPU thread: tensors in, log-odds out.

    Raises:
        BundleError: onnxruntime can't load the graph.

    """

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; its advice on graphs is not for our users
        try:
            self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a class of its own per status
            raise BundleError(f"{path}: onnxruntime can't load it: {_first_line(error)}") from error
        self.inputs = tuple(node.name for node in self._session.get_inputs())

    def logits(self, tensors: Tensors) -> NDArray[np.float32]:
        """Return `logit_UN` of encoded requests; tensors that the graph does not take are left out.

        Raises:
            BundleError: the graph can't run on them.

        """
        return self.run(tensors)[LOGIT]

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Return every output by name; see `logits`."""
        names = [node.name for node in self._session.get_outputs()]
        try:
            results = self._session.run(names, {name: tensors[name] for name in self.inputs})
        except Exception as error:
            raise BundleError(f"onnxruntime can't run the graph: {_first_line(error)}") from error
        return dict(zip(names, results, strict=True))


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
