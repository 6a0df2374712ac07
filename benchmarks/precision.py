"""What `export --precision` saves and costs: size, speed and quality of fp32, fp16 and int8.

Exports each RUN three times through the project's exporter. Size: bytes of the weights' file. Speed: processor time of
one `session.run` on one thread, all forms in turn, with L behaviours and 100 candidates. Quality: the gate's figures on
every impression of the test split; a form that the gate refuses has its size and speed only. Without RUN a log is
synthesized, and TIN and DIN are trained on it for one epoch.

Then what no run here is large enough for: untrained TIN, two behaviour fields, d = 64, a million items: memory of a
fresh process that reads all of its table, and speed. And one matrix product in float16 and bfloat16, if onnxruntime
has one.

Run: `python benchmarks/precision.py [RUN ...] [--json]`, about 5 minutes for two runs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from benchmarks.support.bars import bar, finish
from benchmarks.support.half_matmul import KINDS, product
from benchmarks.support.turns import cpu_seconds
from benchmarks.support.untrained import FEATURES, tensors, untrained, write
from contract.encoder import Tensors
from contract.errors import BundleError, LongsightError
from export.distilling import typical_request
from export.exporter import export
from export.precision import DATA, PRECISIONS, Precision, write_reduced
from service.runtime.graph import Graph
from training.prepare import prepare
from training.run import Run
from training.synthesize.log import synthesize
from training.train import train

FORMS: Final = PRECISIONS
EVERY_TABLE: Final[dict[str, Precision]] = {"fp16, every table": "fp16", "int8, every table": "int8"}
"""Forms for their speed alone: the exporter leaves small tables as they are."""
ITEMS: Final = 1_000_000
WIDTH: Final = 64
LENGTH, CANDIDATES, REQUESTS = 1_000, 100, 64
CHILD: Final = Path(__file__).parent / "support" / "graph_memory.py"


def measure(run: Path, folder: Path, *, rounds: int) -> list[dict[str, Any]]:
    """Return size, speed and quality of every form of a run."""
    quality = [_exported(run, folder, form) for form in FORMS]
    request = typical_request(Run.load(run))
    for name, form in EVERY_TABLE.items():
        (folder / name).mkdir()
        write_reduced(folder / "fp32", folder / name, precision=form, smallest_share=0.0)
        quality.append({})
    names = (*FORMS, *EVERY_TABLE)
    return [
        {"run": run.name, "form": name, "data_bytes": (folder / name / DATA).stat().st_size, **found, **speed}
        for name, found, speed in zip(
            names, quality, milliseconds(folder, names, request, rounds=rounds), strict=True
        )
    ]


def _exported(run: Path, folder: Path, form: Precision) -> dict[str, Any]:
    """Export to a folder of that name; returns the gate's figures, or what it said when it refused."""
    figures = ("gauc_difference", "gauc_low", "gauc_high", "pcoc_difference", "log_odds_difference")
    try:
        told = export(run, folder / form, precision=form)
    except LongsightError as error:
        (folder / form).mkdir()
        write_reduced(folder / "fp32", folder / form, precision=form)
        return {**dict.fromkeys((*figures, "bundle_bytes", "tolerance")), "refused": str(error)}
    found = told.get("reduction", {})
    return {
        **{name: found.get(name) for name in figures},
        "bundle_bytes": told["bytes"],
        "tolerance": told["tolerance"],
        "refused": None,
    }


def milliseconds(
    folder: Path, forms: Sequence[str], request: Tensors, *, rounds: int
) -> list[dict[str, float]]:
    """Return the median milliseconds of a run of every form, all in turn, and how that relates to fp32."""
    graphs = [Graph(folder / form / "model.onnx") for form in forms]
    runs: dict[str, Callable[[], object]] = {
        form: partial(graph.run, request) for form, graph in zip(forms, graphs, strict=True)
    }
    taken = cpu_seconds(runs, rounds=rounds, warm_up=10)
    return [
        {
            "ms": 1e3 * float(np.median(taken[form])),
            "of_fp32": float(np.median(taken[form] / taken["fp32"])),
        }
        for form in forms
    ]


def large(folder: Path, *, rounds: int) -> list[dict[str, Any]]:
    """Return size, memory and speed of untrained TIN with a million items."""
    features = replace(FEATURES, vocabulary_rows={**FEATURES.vocabulary_rows, "item": ITEMS})
    model = untrained("tin", {"embedding_width": WIDTH}, history_length=LENGTH, features=features)
    write(model, folder / "fp32")
    for form in FORMS[1:]:
        (folder / form).mkdir()
        write_reduced(folder / "fp32", folder / form, precision=form)
    some = [
        tensors(model.inputs, behaviors=LENGTH, candidates=CANDIDATES, seed=seed, items=ITEMS)
        for seed in range(REQUESTS)
    ]
    together = {name: np.concatenate([each[name] for each in some]) for name in model.inputs}
    np.savez(folder / "tensors.npz", allow_pickle=False, **together)
    return [
        {
            "form": form,
            "data_bytes": (folder / form / DATA).stat().st_size,
            **_memory(folder / form / "model.onnx", folder / "tensors.npz"),
            **ms,
        }
        for form, ms in zip(FORMS, milliseconds(folder, FORMS, some[0], rounds=rounds), strict=True)
    ]


def _memory(graph: Path, tensors_file: Path) -> dict[str, float]:
    command = [sys.executable, str(CHILD), str(graph), str(tensors_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def products(folder: Path, *, rounds: int) -> list[dict[str, Any]]:
    """Return the milliseconds of a matrix product of every kind; what onnxruntime can't run has its words instead."""
    runs, said = {}, {}
    for kind in KINDS:
        path = folder / f"{kind}.onnx"
        onnx.save(product(kind), path)
        shape = [d.dim_value for d in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]
        given = {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}
        try:
            runs[kind] = partial(Graph(path).run, given)
            runs[kind]()
        except BundleError as error:
            runs.pop(kind, None)
            said[kind] = str(error).partition("can't load it: ")[2]
    taken = cpu_seconds(runs, rounds=rounds)
    return [
        {
            "product": kind,
            "ms": 1e3 * float(np.median(taken[kind])) if kind in taken else None,
            "of_fp32": float(np.median(taken[kind] / taken["fp32"])) if kind in taken else None,
            "said": said.get(kind),
        }
        for kind in KINDS
    ]


def synthetic(folder: Path) -> list[Path]:
    """Return runs of TIN and DIN on a synthetic log."""
    synthesize(folder / "log", users=2_000, ads=500)
    prepare(folder / "log", folder / "dataset")
    for model in ("tin", "din"):
        train(folder / "dataset", folder / model, model=model, settings={"history_length": 200, "epochs": 1})
    return [folder / "tin", folder / "din"]


def show(runs: list[dict[str, Any]], big: list[dict[str, Any]], found: list[dict[str, Any]]) -> None:
    """Print the tables."""
    print(
        f"{'run':<18}{'form':<19}{'MB':>7}{'ms':>8}{'of fp32':>9}{'GAUC change':>13}{'interval':>21}{'PCOC change':>13}"
    )
    for entry in runs:
        line = f"{entry['run']:<18}{entry['form']:<19}{entry['data_bytes'] / 1e6:>7.2f}{entry['ms']:>8.2f}"
        line += f"{entry['of_fp32']:>9.3f}"
        if entry.get("gauc_difference") is not None:
            interval = (
                "-" if entry["gauc_low"] is None else f"{entry['gauc_low']:+.5f}..{entry['gauc_high']:+.5f}"
            )
            line += f"{entry['gauc_difference']:>+13.5f}{interval:>21}{entry['pcoc_difference']:>+13.5f}"
        print(line + (f"  refused: {entry['refused']}" if entry.get("refused") else ""))
    print(f"{'a million items':<18}{'form':<19}{'MB':>7}{'ms':>8}{'of fp32':>9}{'peak MB':>10}{'before':>8}")
    for entry in big:
        line = f"{'':<18}{entry['form']:<19}{entry['data_bytes'] / 1e6:>7.1f}{entry['ms']:>8.2f}"
        print(f"{line}{entry['of_fp32']:>9.3f}{entry['peak_mb']:>10.0f}{entry['before_mb']:>8.0f}")
    for entry in found:
        figures = f"{entry['ms']:.2f} ms, {entry['of_fp32']:.2f} of fp32" if entry["ms"] else entry["said"]
        print(f"product in {entry['product']}: {figures}")


def bars_of(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the bars: what the gate holds fp16 to."""
    bars = []
    for entry in runs:
        if entry["form"] == "fp16":
            moved = entry["pcoc_difference"]
            name = f"{entry['run']} fp16"
            bars.append(bar(f"{name}: low end of the GAUC change", entry["gauc_low"], ">=", -0.002))
            bars.append(bar(f"{name}: PCOC moves by", None if moved is None else abs(moved), "<=", 0.01))
    return bars


def main() -> None:
    """Measure everything; print the tables and the bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="run folders; their dataset must be there"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--rounds", type=int, default=200, help="runs of each form")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="longsight-bench-") as name:
        folder = Path(name)
        paths = given.runs or synthetic(folder)
        runs = [
            entry
            for index, run in enumerate(paths)
            for entry in measure(run, folder / f"bundles-{index}", rounds=given.rounds)
        ]
        big = large(folder / "large", rounds=given.rounds)
        found = products(folder, rounds=given.rounds)
    show(runs, big, found)
    tables: Mapping[str, Any] = {"forms": runs, "million_items": big, "products": found}
    finish(tables, bars_of(runs), as_json=given.json)


if __name__ == "__main__":
    main()
