"""What DiffuMIN costs to serve, in multiples of TIN: unrolled, distilled, without diffusion; time and memory.

Untrained models with two behaviour fields, d = 64, c = 4, exported as any model and run as the service runs them, on
one thread, in turn. At L = 1000 and N = 100: TIN, variant D (no diffusion), the sampler unrolled at 5, 10 and 20
steps, the one-step student, and the short-term encoders. Then L and N five times as large: the time is held to
linear growth in both, with 10 % for noise, and peak memory is that of a fresh process that does nothing else.

Run: `python benchmarks/diffumin_cost.py [--json]`, about 5 minutes; `--profile "unrolled 10"` shows instead where the
time of one graph goes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.support.bars import bar, finish
from benchmarks.support.graph_profile import by_operator
from benchmarks.support.turns import cpu_seconds
from benchmarks.support.untrained import tensors, untrained, write
from service.runtime.graph import Graph
from training.models import CtrModel
from training.models.diffumin import Diffumin
from training.models.diffumin.student import Student

WIDTH: Final = 64
CHANNELS: Final = 4
BASE: Final = (1000, 100)
"""L and N."""
LARGE: Final = (5000, 500)
SIZES: Final = (BASE, (5000, 100), (1000, 500), LARGE)
NOISE: Final = 1.1

D: Final = "variant D"
TEN: Final = "unrolled 10"
DISTILLED: Final = "distilled"
GRAPHS: Final[dict[str, dict[str, object]]] = {
    D: {"diffusion": False},
    DISTILLED: {},
    **{f"unrolled {steps}": {"diffusion_steps": steps} for steps in (5, 10, 20)},
    "D, no short term": {"diffusion": False, "short_term": "none"},
    **{
        f"D, {kind} {layers}": {"diffusion": False, "short_term": kind, "short_term_layers": layers}
        for kind in ("history_only", "full")
        for layers in (1, 2)
    },
}
"""DiffuMIN's settings by the name of the graph; what isn't named is at its default."""
GROWING: Final = (D, DISTILLED, TEN)
CHILD: Final = Path(__file__).parent / "support" / "graph_memory.py"


def model_of(name: str, *, history_length: int) -> CtrModel:
    """Return the untrained model of a graph."""
    if name == "tin":
        return untrained("tin", {"embedding_width": WIDTH}, history_length=history_length)
    settings = {"embedding_width": WIDTH, "channels": CHANNELS, "diffusion": True, **GRAPHS[name]}
    model = untrained("diffumin", settings, history_length=history_length)
    if name == DISTILLED:
        assert isinstance(model, Diffumin)
        model.diffusion = Student(model.config).eval()
    return model


def times(graphs: dict[str, Path], size: tuple[int, int], *, rounds: int) -> dict[str, float]:
    """Return the median milliseconds of a run of each graph, all in turn."""
    behaviors, candidates = size
    runs = {}
    for name, path in graphs.items():
        graph = Graph(path)
        given = tensors(graph.inputs, behaviors=behaviors, candidates=candidates)
        runs[name] = partial(graph.run, given)
    return {
        name: float(np.median(seconds_T)) * 1e3
        for name, seconds_T in cpu_seconds(runs, rounds=rounds).items()
    }


def growth(graphs: dict[str, Path], *, rounds: int) -> list[dict[str, Any]]:
    """Return the milliseconds of a run at every size, and its peak memory at the largest; all sizes in turn."""
    runs = {}
    for name, path in graphs.items():
        graph = Graph(path)
        for behaviors, candidates in SIZES:
            given = tensors(graph.inputs, behaviors=behaviors, candidates=candidates)
            runs[f"{name} {behaviors} {candidates}"] = partial(graph.run, given)
    taken = cpu_seconds(runs, rounds=rounds, warm_up=1)
    found = []
    for name, path in graphs.items():
        at = [
            1e3 * float(np.median(taken[f"{name} {behaviors} {candidates}"]))
            for behaviors, candidates in SIZES
        ]
        linear = [at[0] * length * ads / (BASE[0] * BASE[1]) for length, ads in SIZES]
        entry: dict[str, Any] = {
            "graph": name,
            "sizes": SIZES,
            "ms": at,
            "of_linear": [each / expected for each, expected in zip(at, linear, strict=True)],
        }
        found.append(entry | peak_memory(path, LARGE))
    return found


def peak_memory(graph: Path, size: tuple[int, int]) -> dict[str, float]:
    """Return MB of a fresh process that loads the graph and runs it: before loading, and at most."""
    behaviors, candidates = size
    given = tensors(Graph(graph).inputs, behaviors=behaviors, candidates=candidates)
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "tensors.npz"
        np.savez(kept, allow_pickle=False, **given)
        command = [sys.executable, str(CHILD), str(graph), str(kept)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def show(at_base: dict[str, float], grown: Sequence[dict[str, Any]]) -> None:
    """Print both tables."""
    print(f"{'L 1000, N 100':<20}{'ms':>9}{'x TIN':>8}")
    for name, ms in at_base.items():
        print(f"{name:<20}{ms:>9.2f}{ms / at_base['tin']:>8.1f}")
    columns = "".join(f"{f'{length}, {ads}':>20}" for length, ads in SIZES)
    print(f"{'ms (of linear)':<20}{columns}{'peak MB':>10}{'before':>8}")
    for entry in grown:
        cells = zip(entry["ms"], entry["of_linear"], strict=True)
        figures = "".join(f"{f'{ms:.1f} ({share:.2f})':>20}" for ms, share in cells)
        print(f"{entry['graph']:<20}{figures}{entry['peak_mb']:>10.0f}{entry['before_mb']:>8.0f}")


def bars_of(at_base: dict[str, float], grown: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the bars."""
    tin, student, ten = at_base["tin"], at_base[DISTILLED], at_base[TEN]
    bars = [
        bar("distilled, L 1000, N 100: times TIN", student / tin, "<=", 24.0),
        bar("10 steps unrolled, L 1000, N 100: times TIN", ten / tin, "<=", 60.0),
        bar("distilled over 10 steps unrolled", student / ten, "<=", 0.35),
    ]
    for entry in grown:
        name = f"{entry['graph']}, L 5000, N 500"
        bars.append(bar(f"{name}: time over linear growth", entry["of_linear"][-1], "<=", NOISE))
        bars.append(bar(f"{name}: peak memory of the process, MB", entry["peak_mb"], "<=", 600.0))
    return bars


def profile(name: str, folder: Path) -> None:
    """Print where the time of a graph goes."""
    behaviors, candidates = BASE
    path = write(model_of(name, history_length=behaviors), folder / "profiled")
    given = tensors(Graph(path).inputs, behaviors=behaviors, candidates=candidates)
    rows = by_operator(path, given)
    print(f"{name + ', L 1000, N 100':<32}{'nodes':>6}{'ms':>9}{'share':>8}")
    for row in rows:
        print(f"{row['operator']:<32}{row['nodes']:>6}{row['ms']:>9.3f}{row['share']:>8.1%}")
    print(f"{'all':<38}{sum(row['ms'] for row in rows):>9.3f}")


def main() -> None:
    """Write every graph; print the tables and the bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument(
        "--rounds", type=int, default=60, help="runs of each graph; a fifth at the large sizes"
    )
    parser.add_argument("--profile", choices=["tin", *GRAPHS], help="show one graph's operators, and end")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="longsight-bench-") as name:
        folder = Path(name)
        if given.profile:
            profile(given.profile, folder)
            return
        graphs = {
            name: write(model_of(name, history_length=BASE[0]), folder / f"base-{index}")
            for index, name in enumerate(["tin", *GRAPHS])
        }
        at_base = times(graphs, BASE, rounds=given.rounds)
        large = {
            name: write(model_of(name, history_length=LARGE[0]), folder / f"large-{index}")
            for index, name in enumerate(GROWING)
        }
        grown = growth(large, rounds=max(3, given.rounds // 5))
    show(at_base, grown)
    tables = {"milliseconds": at_base, "growth": grown}
    finish(tables, bars_of(at_base, grown), as_json=given.json)


if __name__ == "__main__":
    main()
