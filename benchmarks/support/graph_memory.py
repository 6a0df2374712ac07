"""Peak memory of a process that does nothing but run a graph: `python graph_memory.py GRAPH TENSORS.npz`.

Loads the graph as the service does, runs it a few times on the tensors, and prints what the process held at most
(VmHWM: everything resident, the interpreter, its libraries and the weights included), before it loaded the graph
and at its end.
"""

import json
import sys
from pathlib import Path
from typing import Final

import numpy as np

from service.runtime.graph import Graph

RUNS: Final = 3


def peak_bytes() -> int:
    """Return the most memory that this process ever held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Run the graph; print one JSON object."""
    graph_path, tensors_path = map(Path, sys.argv[1:])
    with np.load(tensors_path) as kept:
        tensors = dict(kept)
    before = peak_bytes()
    graph = Graph(graph_path)
    for _ in range(RUNS):
        graph.run(tensors)
    print(json.dumps({"before_mb": before / 1e6, "peak_mb": peak_bytes() / 1e6}))


if __name__ == "__main__":
    main()
