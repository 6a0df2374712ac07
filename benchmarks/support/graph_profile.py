"""Where the time of a graph goes, by operator."""

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import onnxruntime as ort

from contract.encoder import Tensors


def by_operator(graph: Path, tensors: Tensors, *, runs: int = 30) -> list[dict[str, Any]]:
    """Return of every operator its name, nodes, milliseconds of a run and share, the dearest first.

    onnxruntime's own profiler, one thread; what it fuses bears its name for it. To write down every node costs
    time too, most of all for graphs of many small nodes.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_mem_pattern = False
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        for _ in range(runs):
            session.run(None, tensors)
        events = json.loads(Path(session.end_profiling()).read_text())
    micros: Counter[str] = Counter()
    nodes: dict[str, set[str]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["args"]["op_name"]
            micros[name] += event["dur"]
            nodes.setdefault(name, set()).add(event["name"])
    total = sum(micros.values())
    return [
        {"operator": name, "nodes": len(nodes[name]), "ms": spent / runs / 1e3, "share": spent / total}
        for name, spent in micros.most_common()
    ]
