"""Opens what explains a bundle's scores, when it is first asked for: proven first, as the graph of the scores was."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.bundle import Bundle
from contract.errors import BundleError
from contract.golden import check_scores
from service.runtime.graph import WEIGHT, Graph
from service.scoring.explain import Explainer, Opened
from service.settings import RuntimeSettings


def explainer_of(bundle: Bundle, runtime: RuntimeSettings) -> Explainer | None:
    """Return what explains by a verified bundle, not opened yet; None where the bundle has no explanations."""
    if bundle.explained_path is None:
        return None
    return Explainer(bundle.schema, lambda: open_explained(bundle, runtime))


def open_explained(bundle: Bundle, runtime: RuntimeSettings) -> Opened:
    """Open the graph that weighs behaviours, on the device that serves, and the names of what they were.

    Raises:
        BundleError: the bundle has none, onnxruntime can't run it, or it scores golden requests otherwise.
        DeviceError: the device can't hold it.

    """
    path = bundle.explained_path
    if path is None:
        raise BundleError(f"{bundle.path}: has no explanations")
    graph = Graph(path, device=runtime.device, gpu_memory_bytes=runtime.gpu_memory_bytes)
    if WEIGHT not in graph.outputs or set(graph.inputs) != set(bundle.input_names):
        raise BundleError(
            f"{path}: has other inputs or outputs than explanations need; export the bundle again"
        )

    def score(tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        return graph.weigh({name: tensors[name] for name in graph.inputs})[0]

    manifest = bundle.manifest
    try:
        check_scores(score, bundle.golden(), tolerance=manifest.tolerance, hard_routing=manifest.hard_routing)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
    names = {name: bundle.names(name) for name in bundle.schema.vocabularies}
    return Opened(graph.weigh, {name: table for name, table in names.items() if table is not None})
