"""Samples per second in training: DIN and TIN against DeepCTR-Torch's DIN, and FuxiCTR's where a checkout is given.

The same 1,024 rows a batch (U requests of N candidates), d = 32, attention 80-40 ReLU, head 80-40, one id per
behaviour, 50,000 ids, all histories full, 2 threads. Every trainer has a process of its own; they take turns, so
that a busy machine slows them alike, and the median of the turns counts.

`loop` is the library's own training loop from the data on: ours cuts batches from a dataset, DeepCTR-Torch's is
`fit`. `step` is the bare step on a batch that lies ready: forward, backward, optimiser. FuxiCTR has its `train_step`.

Run: `python benchmarks/training_speed.py [--json] [--fuxictr CHECKOUT]`; needs the extra `bench`, and for FuxiCTR
what its requirements.txt names.
"""

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.support.bars import bar, finish

CHILD: Final = Path(__file__).parent / "support" / "trainers.py"
ITEMS: Final = 50_000
DIN: Final = {"attention_hidden": [80, 40], "embedding_width": 32}
SHAPES: Final = {  # name -> L, U, N
    "L 100, N 32": (100, 32, 32),
    "L 1000, N 32": (1000, 32, 32),
    "L 100, N 1": (100, 1024, 1),
    "L 1000, N 1": (1000, 1024, 1),
}
BATCHES: Final = 2  # of a turn; a loop starts with an empty pipe, as it does in every epoch
ROWS: Final = 1024


@dataclass
class Trainer:
    """One trainer in its process, and the samples per second of its turns."""

    process: subprocess.Popen[str]
    forms: list[str]
    rates: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def start(
        cls, kind: str, shape: tuple[int, int, int], model: str, settings: dict[str, Any]
    ) -> "Trainer | None":
        """Start it and wait until it is ready; None where it can't run."""
        history, requests, candidates = shape
        given: dict[str, Any] = {
            "history": history,
            "requests": requests,
            "candidates": candidates,
            "batches": BATCHES,
        }
        given |= {"items": ITEMS, "threads": 2, "model": model, "settings": settings}
        process = subprocess.Popen(
            [sys.executable, str(CHILD), kind, json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        ready = process.stdout.readline()
        if not ready:
            process.wait()
            print(f"{kind}: could not run, see above", file=sys.stderr)
            return None
        return cls(process, json.loads(ready))

    def turn(self, form: str) -> float:
        """Train BATCHES batches; returns samples per second."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{form} {BATCHES}\n")
        self.process.stdin.flush()
        return BATCHES * ROWS / float(self.process.stdout.readline())

    def stop(self) -> None:
        """End its process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(shape: tuple[int, int, int], *, turns: int, fuxictr: Path | None) -> dict[str, dict[str, float]]:
    """Return samples per second by trainer and form, the median of the turns after the first."""
    wanted: dict[str, tuple[str, str, dict[str, Any]]] = {
        "din": ("longsight", "din", DIN),
        "din bf16": ("longsight", "din", {**DIN, "precision": "bf16"}),
        "tin": ("longsight", "tin", {"embedding_width": 32}),
        "DeepCTR-Torch DIN": ("deepctr", "din", {}),
    }
    if fuxictr is not None:
        wanted["FuxiCTR DIN"] = ("fuxictr", "din", {"checkout": str(fuxictr.resolve())})
    trainers = {
        name: Trainer.start(kind, shape, model, given) for name, (kind, model, given) in wanted.items()
    }
    running = {name: trainer for name, trainer in trainers.items() if trainer is not None}
    for turn in range(turns + 1):
        for trainer in running.values():
            for form in trainer.forms:
                rate = trainer.turn(form)
                if turn:  # the first one warms up
                    trainer.rates.setdefault(form, []).append(rate)
    for trainer in running.values():
        trainer.stop()
    return {
        name: {form: statistics.median(rates) for form, rates in trainer.rates.items()}
        for name, trainer in running.items()
    }


def ratio(table: dict[str, dict[str, float]], name: str, peer: str, form: str) -> float | None:
    """Return how many times as many samples per second as the peer; None where one is missing."""
    ours, theirs = table.get(name, {}).get(form), table.get(peer, {}).get(form)
    return None if ours is None or theirs is None else ours / theirs


def main() -> None:
    """Measure every shape; print the tables and the bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--fuxictr", type=Path, help="a checkout of FuxiCTR")
    parser.add_argument("--turns", type=int, default=5, help="of each trainer, after one to warm up")
    given = parser.parse_args()
    tables: dict[str, dict[str, dict[str, float]]] = {}
    for name, shape in SHAPES.items():
        tables[name] = table = measure(shape, turns=given.turns, fuxictr=given.fuxictr)
        print(
            f"{name + ', samples/s':<24}{'loop':>10}{'step':>10}{'x DeepCTR loop':>16}{'x DeepCTR step':>16}"
        )
        for trainer, rates in table.items():
            ratios = [ratio(table, trainer, "DeepCTR-Torch DIN", form) for form in ("loop", "step")]
            shown = "".join(
                f"{'-' if rate is None else f'{rate:.0f}':>10}" for rate in map(rates.get, ("loop", "step"))
            )
            print(
                f"{trainer:<24}{shown}" + "".join(f"{'-' if r is None else f'{r:.1f}':>16}" for r in ratios),
                flush=True,
            )
    short, long, peer = tables["L 100, N 32"], tables["L 1000, N 32"], "DeepCTR-Torch DIN"
    bars = [
        bar("din, L 100, U 32, N 32: times DeepCTR-Torch", ratio(short, "din", peer, "loop"), ">=", 6.0),
        bar("din, L 1000, U 32, N 32: times DeepCTR-Torch", ratio(long, "din", peer, "loop"), ">=", 4.0),
        bar("tin, L 1000, U 32, N 32: times DeepCTR-Torch", ratio(long, "tin", peer, "loop"), ">=", 30.0),
        bar(
            "din, L 100, U 32, N 32: times FuxiCTR, bare steps",
            ratio(short, "din", "FuxiCTR DIN", "step"),
            ">=",
            6.0,
        ),
        bar(
            "din, L 1000, U 32, N 32: times FuxiCTR, bare steps",
            ratio(long, "din", "FuxiCTR DIN", "step"),
            ">=",
            3.0,
        ),
    ]
    finish({"samples_per_second": tables}, bars, as_json=given.json)


if __name__ == "__main__":
    main()
