"""The service against mosec, BentoML, its own graph called bare, and an ideal queue; under overload; its memory.

One machine of two cores holds the service, the store and the generator. The bundle has two behaviour fields, d = 64,
TIN, L = 1000, N = 100; 5,000 users are asked for by Zipf's law. Log, bundles, store and the peers' environment are
kept in `--folder`, so that only the first run makes them (5 minutes). Compared things alternate, and ratios are medians
over the rounds. Parts (`--only`):

- closed: the service's set-ups at 1, 4, 16 and 64 connections, CPU time per request of service, store and generator;
- bare, rows: `session.run` from two threads, of whole requests and of one row per candidate;
- mosec, bentoml: each peer's configurations, then its best and the service's best in turn;
- din: DIN's graph against the naive one (`din_cost.py`);
- open: Poisson traffic of all sizes, 60 % and 150 % of capacity;
- soak: memory under random sizes, `--soak-s`;
- independence: the tests that hold batches together and answers apart.

Needs the load generator wrk (`apt-get install wrk`). Run: `python benchmarks/serving.py [--json]`, about 40 minutes;
each part's table is kept, and `--kept` fills in those that aren't measured now. `--quick` shows in a few minutes that
all of it works; its figures mean nothing.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.support.bars import finish
from benchmarks.support.closed_loop import require_wrk
from benchmarks.support.peers import BENTOML, MOSEC, Configuration, peer_python
from benchmarks.support.running_service import ROOT, machine
from benchmarks.support.serving_bars import bars_of
from benchmarks.support.serving_graphs import bare, rows
from benchmarks.support.serving_matches import closed, fastest, match
from benchmarks.support.serving_open import open_loops
from benchmarks.support.serving_parts import WORKERS, Effort, Setup, setup_called
from benchmarks.support.serving_soak import soak
from benchmarks.support.serving_stand import Stand, stand

FOLDER: Final = Path(".longsight/serving")
INDEPENDENCE: Final = "tests/service/batching"
QUICK: Final = Effort(seconds=1.0, rounds=1, play_offs=1, soak_s=20.0)

Part = Callable[[], Mapping[str, Any]]


class Bench:
    """The parts, on one stand; the set-up that `closed` found best is used by the others."""

    def __init__(self, on: Stand, effort: Effort, given_python: Path | None) -> None:
        self._stand = on
        self._effort = effort
        self._given_python = given_python
        self._results = on.folder / "results"
        self.parts: dict[str, Part] = {
            "closed": lambda: closed(on, effort),
            "bare": lambda: bare(on, effort, self._fastest()[0]),
            "rows": lambda: rows(on, effort, self._fastest()[0]),
            "mosec": lambda: self._match(MOSEC),
            "bentoml": lambda: self._match(BENTOML),
            "din": din_cost,
            "open": lambda: open_loops(on, effort),
            "soak": lambda: soak(on, effort),
            "independence": independence,
        }

    def measure(self, name: str) -> dict[str, Any]:
        """Measure one part and keep its table; one that can't be measured says why in `error`."""
        print(f"--- {name}", flush=True)
        try:
            table = dict(self.parts[name]())
        except SystemExit as error:
            print(error, flush=True)
            table = {"error": str(error)}
        self._results.mkdir(exist_ok=True)
        (self._results / f"{name}.json").write_text(json.dumps(table))
        return table

    def kept(self, name: str) -> dict[str, Any] | None:
        """Return a part's table from an earlier run, if there is one."""
        path = self._results / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def _match(self, configurations: tuple[Configuration, ...]) -> dict[str, Any]:
        python = peer_python(self._stand, self._given_python)
        return match(
            self._stand, self._effort, setups=self._fastest(), configurations=configurations, python=python
        )

    def _fastest(self) -> list[Setup]:
        table = self.kept("closed")
        names = [] if table is None or "error" in table else fastest(table)
        return list(dict.fromkeys([*(setup_called(name) for name in names), WORKERS]))


def din_cost() -> dict[str, Any]:
    """Run DIN's own benchmark and return its table."""
    return _last_json([sys.executable, str(ROOT / "benchmarks" / "din_cost.py"), "--json"])


def independence() -> dict[str, Any]:
    """Run the tests of the batcher and return how many passed and failed."""
    command = [sys.executable, "-m", "pytest", INDEPENDENCE, "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1]
    print(last)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", last)}
    return {
        "tests": INDEPENDENCE,
        "passed": counts.get("passed", 0),
        "failed": counts.get("failed", 0) + counts.get("error", 0),
    }


def main() -> None:
    """Measure the parts asked for; print the bars, and with --json one line of JSON."""
    arguments = _arguments()
    require_wrk()
    effort = QUICK if arguments.quick else Effort(soak_s=arguments.soak_s)
    tables: dict[str, Any] = {}
    with stand(arguments.folder, quick=arguments.quick) as on:
        bench = Bench(on, effort, arguments.peer_python)
        wanted = arguments.only.split(",") if arguments.only else list(bench.parts)
        if unknown := set(wanted) - set(bench.parts):
            raise SystemExit(f"no part {min(unknown)!r}; there are {', '.join(bench.parts)}")
        for name in bench.parts:
            table = bench.measure(name) if name in wanted else None
            if table is None and arguments.kept:
                table = bench.kept(name)
            if table is not None:
                tables[name] = table
    finish({"benchmark": "serving", "versions": machine(), **tables}, bars_of(tables), as_json=arguments.json)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"what is kept (default {FOLDER})")
    parser.add_argument("--only", help="parts to measure, with commas between; default all")
    parser.add_argument("--kept", action="store_true", help="take the other parts from earlier runs")
    parser.add_argument("--soak-s", type=float, default=600.0, help="seconds of the soak (default 600)")
    parser.add_argument(
        "--peer-python", type=Path, help="an interpreter with mosec and BentoML; default: made in the folder"
    )
    parser.add_argument("--quick", action="store_true", help="small and short: does it work?")
    parser.add_argument("--json", action="store_true", help="end stdout with one JSON object")
    return parser.parse_args()


def _last_json(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[1]} failed: {done.stderr.strip()[-300:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
