"""One onnxruntime session: tensors in, log-odds out.

On a CPU a session is called by several threads at once and each call stays on its caller's thread: measured faster
than one call spread over the cores, and no thread spins. A device that can't be used is an error: nothing ever
falls back to the CPU silently.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from contract.bundle import LEAST_PAIRS
from contract.errors import BundleError
from service.errors import DeviceError

OUTPUT = "logit"
WEIGHT = "weight"
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"


class Graph:
    """A loaded graph.

    Args:
        path: `model.onnx`; its external weights lie beside it and are memory-mapped.
        device: `cpu`, `cuda` or `cuda:<index>`.
        gpu_memory_bytes: most memory of the CUDA arena; 0 = no limit.

    Raises:
        DeviceError: the device can't be used.
        BundleError: the file is no graph that onnxruntime can run.

    """

    def __init__(self, path: Path, *, device: str = "cpu", gpu_memory_bytes: int = 0) -> None:
        self.device = device
        providers = _providers(device, gpu_memory_bytes)
        try:
            options = _options()
            if device != "cpu":
                # A GPU is slower for pieces made for a CPU's cache. The session only points at the value: keep it.
                self._least_pairs = ort.OrtValue.ortvalue_from_numpy(np.array([1 << 40], dtype=np.int64))
                options.add_initializer(LEAST_PAIRS, self._least_pairs)
            self._session = ort.InferenceSession(path, options, providers=providers)
        except Exception as error:
            reason = str(error).splitlines()[0]
            if device != "cpu":
                raise DeviceError(f"device {device}: {reason}") from error
            raise BundleError(f"{path}: onnxruntime can't load it: {reason}") from error
        if device != "cpu" and self._session.get_providers()[0] != CUDA:
            raise DeviceError(
                f"device {device}: onnxruntime could not start its CUDA provider (driver, CUDA 13 and cuDNN 9 "
                "are needed); it would run on the CPU instead, which was not asked for"
            )
        self.inputs = tuple(node.name for node in self._session.get_inputs())
        self.outputs = tuple(node.name for node in self._session.get_outputs())
        if OUTPUT not in self.outputs:
            raise BundleError(f"{path}: the graph has no output {OUTPUT!r}")

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return `logit` [U, N] of the tensors named in `inputs`; may be called from several threads."""
        logit_UN: NDArray[np.float32] = self._session.run([OUTPUT], tensors)[0]
        return logit_UN

    def weigh(self, tensors: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return `logit` [U, N] and `weight` [U, N, L]; for a graph that has both, called as `run`."""
        logit_UN, weight_UNL = self._session.run([OUTPUT, WEIGHT], tensors)
        return logit_UN, weight_UNL


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Patterns are kept for every (U, L, N) ever seen: with our shapes that is memory that only grows.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    return options


def _providers(device: str, gpu_memory_bytes: int) -> list[Any]:
    if device == "cpu":
        return [CPU]
    if CUDA not in ort.get_available_providers():
        raise DeviceError(
            f"device {device}: this onnxruntime ({ort.__version__}) has no CUDA provider; install the extra "
            "serve-gpu in place of serve, or use --device cpu"
        )
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    options: dict[str, str] = {
        "device_id": device.partition(":")[2] or "0",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",
    }
    if gpu_memory_bytes:
        options["gpu_mem_limit"] = str(gpu_memory_bytes)
    return [(CUDA, options), CPU]
