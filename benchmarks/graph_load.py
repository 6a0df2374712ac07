"""What a worker more costs, and whether a graph optimised beforehand pays: start, run time, private memory.

Untrained models with two behaviour fields, d = 64, and a table of 800,000 items (205 MB). Each figure is of a fresh
process that imports onnxruntime alone, starts one session and scores 400 requests of random histories (L = 1000,
N = 100), while another process has the same graph open: what both map counts for neither. Compared: the service's
options, the same without the private copies of weights that onnxruntime packs for its matrix products, and a graph
that was optimised once and saved, loaded without optimisation.

Run: `python benchmarks/graph_load.py [--json]`, about 5 minutes and 0.5 GB of disk.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.support.bars import bar, finish
from benchmarks.support.untrained import ROWS, SCHEMA, tensors, untrained, write
from service.runtime.graph import Graph
from training.models.features import FeatureSpec

ITEMS: Final = 800_000
SIZE: Final = (1000, 100)
"""L and N."""
REQUESTS: Final = 400
MODELS: Final[dict[str, tuple[str, dict[str, object]]]] = {
    "tin": ("tin", {}),
    "din 80-40": ("din", {"attention_hidden": [80, 40]}),
    "diffumin, variant D": ("diffumin", {"diffusion": False}),
    "diffumin, 10 steps": ("diffumin", {"diffusion": True, "diffusion_steps": 10}),
}
PLAIN: Final = "as served"
FORMS: Final[dict[str, dict[str, Any]]] = {
    PLAIN: {"optimise": True},
    "weights not packed": {"optimise": True, "config": {"session.disable_prepacking": "1"}},
    "optimised beforehand": {"optimise": False},
}
CHILD: Final = Path(__file__).parent / "support" / "graph_start.py"


@contextmanager
def started(graph: Path, requests: Path, options: dict[str, Any]) -> Iterator[dict[str, float]]:
    """Return what a process tells of a session; it holds it until the context ends."""
    command = [sys.executable, str(CHILD), str(graph), str(requests), json.dumps(options)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found: dict[str, float] = json.loads(process.stdout.readline())
        yield found
        process.communicate()


def measure(name: str, folder: Path, *, repeats: int) -> dict[str, dict[str, float]]:
    """Return the figures of each form of a model's graph: medians over fresh processes."""
    model, settings = MODELS[name]
    features = FeatureSpec.from_schema(SCHEMA, {**ROWS, "item": ITEMS})
    built = untrained(model, {"embedding_width": 64, **settings}, history_length=SIZE[0], features=features)
    graph, requests = write(built, folder), folder / "requests.npz"
    names = Graph(graph).inputs
    drawn = [
        tensors(names, behaviors=SIZE[0], candidates=SIZE[1], seed=seed, items=ITEMS)
        for seed in range(REQUESTS)
    ]
    np.savez(
        requests,
        allow_pickle=False,
        **{f"{seed:03}/{n}": tensor for seed, inputs in enumerate(drawn) for n, tensor in inputs.items()},
    )
    saved = folder / "optimised.onnx"
    with started(graph, requests, {"optimise": True, "save": str(saved)}):
        pass
    rows = {}
    for form, options in FORMS.items():
        path = saved if form == "optimised beforehand" else graph
        with started(path, requests, options):
            each = []
            for _ in range(repeats):
                with started(path, requests, options) as found:
                    each.append(found)
        rows[form] = {key: float(np.median([found[key] for found in each])) for key in each[0]}
    return rows


def show(found: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print the table."""
    print(f"{'':<44}{'start ms':>9}{'run ms':>8}{'private MB':>11}{'before':>8}{'mapped':>8}")
    for model, rows in found.items():
        for form, row in rows.items():
            memory = f"{row['private_mb']:>11.1f}{row['private_before_mb']:>8.1f}{row['mapped_mb']:>8.0f}"
            print(f"{model + ', ' + form:<44}{row['start_ms']:>9.1f}{row['run_ms']:>8.3f}{memory}")


def main() -> None:
    """Write the graphs; print the table and the bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind")
    given = parser.parse_args()
    found = {}
    for name in MODELS:
        with tempfile.TemporaryDirectory(prefix="longsight-bench-") as folder:
            found[name] = measure(name, Path(folder) / "graph", repeats=given.repeats)
    show(found)
    bars = [
        bar(f"{name}: private MB of one process more", rows[PLAIN]["private_mb"], "<=", 250.0)
        for name, rows in found.items()
    ]
    finish({"sessions": found}, bars, as_json=given.json)


if __name__ == "__main__":
    main()
