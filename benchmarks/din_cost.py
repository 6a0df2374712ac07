"""What DIN costs to serve: our graph against the naive one of the same weights; time and memory.

Untrained models with two behaviour fields and attention 80-40, one thread, fp32. The naive graph is the paper's: it
concatenates [q, k, q - k, q * k] for every pair of an ad and a behaviour; both go through the project's exporter and
run as the service runs them, in turn. Further sizes and activations, the model's own default, and the same graph with
all ads in one piece (the initializer `pieces.least_pairs` overridden), alone and called for some ads at a time, which
does the user's part again in every call. Peak memory is that of a fresh process that does nothing else.

Run: `python benchmarks/din_cost.py [--json]`, about 2 minutes; `--profile ours|naive` shows instead where the time of a
graph goes, at L = 1000 and N = 100.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from benchmarks.support.bars import bar, finish
from benchmarks.support.graph_profile import by_operator
from benchmarks.support.naive_din import naive
from benchmarks.support.turns import cpu_seconds
from benchmarks.support.untrained import tensors, untrained, write
from contract.bundle import LEAST_PAIRS
from contract.encoder import Tensors
from service.runtime.graph import Graph

BASE: Final = (1000, 100)
"""L and N."""
LONGEST: Final = 5000
SIZES: Final = ((20, 10), (20, 100), (200, 100), (1000, 10), BASE, (1000, 500), (LONGEST, 100))
MODELS: Final[dict[str, dict[str, object]]] = {
    "80-40, D 64": {"embedding_width": 64},
    "80-40, D 32": {"embedding_width": 32},
    "80-40, D 64, prelu": {"embedding_width": 64, "attention_activation": "prelu"},
    "80-40, D 64, dice": {"embedding_width": 64, "attention_activation": "dice"},
    "default (36, D 32)": {"attention_hidden": [36]},
}
"""DIN's settings by name."""
FIRST: Final = "80-40, D 64"
CALLS: Final = (50, 25, 10, 5)
"""Ads of a call."""
CHILD: Final = Path(__file__).parent / "support" / "graph_memory.py"
ONE_PIECE: Final = np.array([1 << 40], dtype=np.int64)


def written(name: str, folder: Path, *, history_length: int = BASE[0]) -> dict[str, Path]:
    """Return the graphs of a model, `ours` and `naive`."""
    settings = {"attention_hidden": [80, 40], **MODELS[name]}
    model = untrained("din", settings, history_length=history_length)
    return {"ours": write(model, folder / "ours"), "naive": write(naive(model), folder / "naive")}


def given(graph: Graph, size: tuple[int, int]) -> Tensors:
    """Return the tensors of a request."""
    return tensors(graph.inputs, behaviors=size[0], candidates=size[1])


def milliseconds(runs: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """Return the median of each, all in turn."""
    taken = cpu_seconds(runs, rounds=rounds)
    return {name: float(np.median(seconds_T)) * 1e3 for name, seconds_T in taken.items()}


def compared(paths: Mapping[str, Path], size: tuple[int, int], *, rounds: int) -> dict[str, Any]:
    """Return milliseconds of both graphs, their ratio, and how far apart their log-odds are."""
    ours, plain = Graph(paths["ours"]), Graph(paths["naive"])
    inputs = given(ours, size)
    apart = float(np.abs(ours.run(inputs) - plain.run(inputs)).max())
    found = milliseconds(
        {"ours": partial(ours.run, inputs), "naive": partial(plain.run, inputs)}, rounds=rounds
    )
    return {**found, "ratio": found["ours"] / found["naive"], "apart": apart}


def ways(path: Path, *, rounds: int) -> dict[str, float]:
    """Return milliseconds of one graph in pieces, in one piece, and in one piece called for some ads at a time."""
    least = ort.OrtValue.ortvalue_from_numpy(ONE_PIECE)  # outlives the session, which does not keep it
    graph, whole = Graph(path), _one_piece(path, least)
    inputs = given(graph, BASE)

    def calls(ads: int) -> None:
        for start in range(0, BASE[1], ads):
            some = {n: t[:, start : start + ads] if n.startswith("ad_") else t for n, t in inputs.items()}
            whole.run(["logit"], some)

    runs: dict[str, Callable[[], object]] = {
        "pieces in the graph": partial(graph.run, inputs),
        "one piece": partial(whole.run, ["logit"], inputs),
    }
    runs |= {f"one piece, {ads} ads a call": partial(calls, ads) for ads in CALLS}
    return milliseconds(runs, rounds=rounds)


def _one_piece(path: Path, least: ort.OrtValue) -> ort.InferenceSession:
    """Return a session of a graph that does all ads at once, set up otherwise as the service's."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.add_initializer(LEAST_PAIRS, least)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def peak_memory(graph: Path, size: tuple[int, int]) -> dict[str, float]:
    """Return MB of a fresh process that loads the graph and runs it: before loading, and at most."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "tensors.npz"
        np.savez(kept, allow_pickle=False, **given(Graph(graph), size))
        command = [sys.executable, str(CHILD), str(graph), str(kept)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(folder: Path, *, rounds: int) -> dict[str, Any]:
    """Return all tables."""
    models, sizes = {}, {}
    for index, name in enumerate(MODELS):
        paths = written(name, folder / str(index))
        models[name] = compared(paths, BASE, rounds=rounds)
        if name == FIRST:
            forms = ways(paths["ours"], rounds=rounds)
    long = written(FIRST, folder / "long", history_length=LONGEST)
    for size in SIZES:
        cells = size[0] * size[1]
        times = max(5, min(20 * rounds, rounds * BASE[0] * BASE[1] // cells))
        sizes[f"L {size[0]}, N {size[1]}"] = compared(long, size, rounds=times)
    memory = {name: peak_memory(path, (LONGEST, BASE[1])) for name, path in long.items()}
    return {"models": models, "sizes": sizes, "ways": forms, "memory": memory}


def show(found: Mapping[str, Any]) -> None:
    """Print the tables."""
    for table in ("models", "sizes"):
        print(f"{table:<24}{'ours ms':>10}{'naive ms':>10}{'ratio':>8}{'apart':>10}")
        for name, row in found[table].items():
            figures = f"{row['ours']:>10.2f}{row['naive']:>10.2f}{row['ratio']:>8.3f}{row['apart']:>10.1e}"
            print(f"{name:<24}{figures}")
    print(f"{'ways, ' + FIRST:<34}{'ms':>10}")
    for name, ms in found["ways"].items():
        print(f"{name:<34}{ms:>10.2f}")
    for name, row in found["memory"].items():
        size = f"L {LONGEST}, N {BASE[1]}"
        print(f"{name}, {size}: peak {row['peak_mb']:.0f} MB, {row['before_mb']:.0f} before loading")


def bars_of(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the bars."""
    rows = [*found["models"].values(), *found["sizes"].values()]
    bars = [
        bar("DIN 80-40, N 100, L 1000: times the naive graph", found["models"][FIRST]["ratio"], "<=", 0.36)
    ]
    bars.append(
        bar("log-odds, ours against naive, every size", max(row["apart"] for row in rows), "<=", 1e-4)
    )
    return bars


def profile(name: str, folder: Path) -> None:
    """Print where the time of a graph goes."""
    path = written(FIRST, folder)[name]
    rows = by_operator(path, given(Graph(path), BASE))
    print(f"{name + ', L 1000, N 100':<32}{'nodes':>6}{'ms':>9}{'share':>8}")
    for row in rows:
        print(f"{row['operator']:<32}{row['nodes']:>6}{row['ms']:>9.3f}{row['share']:>8.1%}")


def main() -> None:
    """Write the graphs; print the tables and the bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--rounds", type=int, default=15, help="runs of each graph; more of the small sizes")
    parser.add_argument("--profile", choices=["ours", "naive"], help="show one graph's operators, and end")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="longsight-bench-") as name:
        if arguments.profile:
            profile(arguments.profile, Path(name))
            return
        found = measure(Path(name), rounds=arguments.rounds)
    show(found)
    finish(found, bars_of(found), as_json=arguments.json)


if __name__ == "__main__":
    main()
