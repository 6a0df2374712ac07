"""Starts one onnxruntime session in a process that does nothing else, and tells what that cost: see `graph_load.py`.

`python graph_start.py GRAPH TENSORS.npz OPTIONS`: OPTIONS is a JSON object, `optimise` (bool: optimise at load),
`save` (a path to write the optimised graph to, its large weights beside it), `config` (session entries). Prints one
JSON object, and then waits until its input ends, so that others can be measured beside it.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
import psutil

RUNS: Final = 100


def options_of(given: dict[str, Any]) -> ort.SessionOptions:
    """Return the service's options but for what is asked for."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if given["optimise"] else level.ORT_DISABLE_ALL
    if "save" in given:
        options.optimized_model_filepath = given["save"]
        name = Path(given["save"]).name + ".data"
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", name)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_min_size_in_bytes", "1024"
        )
    for name, value in given.get("config", {}).items():
        options.add_session_config_entry(name, value)
    return options


def mapped_mb() -> float:
    """Return the resident MB of mapped weights."""
    resident = [int(each.rss) for each in psutil.Process().memory_maps() if each.path.endswith(".data")]
    return sum(resident) / 1e6


def main() -> None:
    """Start, run, tell, wait."""
    graph, tensors_path, given = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    with np.load(tensors_path) as kept:
        requests = [
            {name.partition("/")[2]: kept[name] for name in kept.files if name.startswith(f"{number}/")}
            for number in sorted({name.partition("/")[0] for name in kept.files})
        ]
    before = psutil.Process().memory_full_info().uss
    options = options_of(given)
    started = time.process_time()
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    start_s = time.process_time() - started
    for request in requests:
        session.run(["logit"], request)
    taken = []
    for _ in range(RUNS):
        started = time.process_time()
        session.run(["logit"], requests[0])
        taken.append(time.process_time() - started)
    found = {
        "start_ms": start_s * 1e3,
        "run_ms": float(np.median(taken)) * 1e3,
        "private_mb": psutil.Process().memory_full_info().uss / 1e6,
        "private_before_mb": before / 1e6,
        "mapped_mb": mapped_mb(),
    }
    print(json.dumps(found), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
