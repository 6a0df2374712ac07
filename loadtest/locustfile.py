"""Traffic as an ad server sends it: few users often, many seldom, each with a trip it really made.

Whose trip is drawn by a Zipf law over the users; the rate is constant, whatever the answers take. At the end a table
says where the time went, and the exit code is 1 if a threshold is crossed.

    locust --locustfile loadtest/locustfile.py --headless --users 16 --run-time 30s \
        --host http://127.0.0.1:8000 --log-folder LOG --rate 100 --check-p99-ms 100
"""

import itertools
import json
import math
import random
import sys
import time
from argparse import Namespace
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

import gevent
import polars as pl
from locust import FastHttpUser, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from cli.pairs import REQUEST, request_body
from contract.errors import LongsightError
from contract.log import read_log

WITHOUT_HISTORY: Final = ("timeout", "unavailable")


@dataclass
class Trips:
    """Ready-made bodies by user, and the Zipf weights of the users."""

    bodies: list[list[str]]
    weights: list[float]
    random: random.Random

    def draw(self) -> str:
        """Return the body of one trip."""
        return self.random.choice(self.random.choices(self.bodies, cum_weights=self.weights)[0])


@dataclass
class Answers:
    """What came back: seconds of each answer, failures, answers without history, milliseconds by stage."""

    taken_ms: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    without_history: int = 0
    stages_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def share(self, count: float) -> float:
        """Return `count` as a share of all requests."""
        return count / max(1, len(self.taken_ms) + self.failed.total())


def read_trips(log: Path, *, count: int, zipf: float, seed: int) -> Trips:
    """Return `count` logged requests drawn by `seed`, grouped by user; user r has weight 1 / r^zipf.

    Raises:
        LogError, SchemaError: the log is not as the design says.

    """
    source = read_log(log)
    context = [field.name for field in source.schema.context]
    groups = (
        source.impressions.with_row_index("row").group_by(REQUEST, maintain_order=True).agg(pl.col("row"))
    )
    groups = groups.sample(min(count, groups.height), seed=seed, shuffle=True)
    by_user: dict[Any, list[str]] = defaultdict(list)
    for group in groups.iter_rows(named=True):
        body = request_body(source.impressions[group["row"]], context)
        by_user[group["user_id"]].append(json.dumps(body))
    ranks = range(1, len(by_user) + 1)
    weights = list(itertools.accumulate(1 / rank**zipf for rank in ranks))
    return Trips(list(by_user.values()), weights, random.Random(seed))


OPTIONS: Final = (
    ("--rate", float, 100, "requests a second, all users together"),
    ("--trips", int, 5000, "how many different requests"),
    ("--zipf", float, 1.1, "exponent of the users' weights"),
    ("--seed", int, 0, "seed of every draw"),
    ("--check-p99-ms", float, 100, "threshold: slowest p99"),
    ("--check-failures", float, 0.001, "threshold: largest share of requests that are not answered with 200"),
    ("--check-degraded", float, 0.01, "threshold: largest share of answers scored without the history"),
    ("--check-rate", float, 0.95, "threshold: least achieved share of --rate"),
)


def add_options(parser: LocustArgumentParser) -> None:
    """Declare what this file understands beside locust's own options; `--x-y` is also `LOADTEST_X_Y`."""
    group = parser.add_argument_group("longsight")
    group.add_argument(
        "--log-folder", required=True, env_var="LOADTEST_LOG_FOLDER", help="log whose requests are sent"
    )
    for name, kind, default, text in OPTIONS:
        variable = "LOADTEST" + name[1:].replace("-", "_").upper()
        group.add_argument(name, type=kind, default=default, env_var=variable, help=text)


class AdServer(FastHttpUser):
    """One connection of a caller that asks at a constant pace."""

    trips: ClassVar[Trips]
    answers: ClassVar[Answers] = Answers()
    _period_s: float
    _due_s: float

    def on_start(self) -> None:
        """Start at a random moment of the pace, so that connections do not ask in step."""
        options = self.environment.parsed_options
        assert options is not None
        self._period_s = options.num_users / options.rate
        offset_s = self.trips.random.random() * self._period_s
        self._due_s = time.perf_counter() + offset_s
        gevent.sleep(offset_s)

    def wait_time(self) -> float:
        """Return the seconds until the next request is due, on a timetable of this connection's own.

        locust's constant_throughput counts from the last run, and so lets connections that were once held up
        together fall into step: then the first answers fast and the last waits for all.
        """
        self._due_s += self._period_s
        return max(0.0, self._due_s - time.perf_counter())

    @task
    def score(self) -> None:
        """Score one trip and count the answer."""
        body: str = self.trips.draw()
        answers = self.answers
        headers = {"Content-Type": "application/json"}
        with self.client.post("/score", data=body, headers=headers, catch_response=True) as response:
            if response.status_code != 200:
                answers.failed[
                    f"status {response.status_code}: {str(response.text or response.error)[:300]}"
                ] += 1
                response.failure(f"status {response.status_code}")
                return
            answer = response.json()
            answers.taken_ms.append(float(response.request_meta["response_time"]))
            answers.without_history += answer["history"]["status"] in WITHOUT_HISTORY
            for part in response.headers.get("server-timing", "").split(", "):
                stage, _, milliseconds = part.partition(";dur=")
                if milliseconds:
                    answers.stages_ms[stage].append(float(milliseconds))


def prepare(environment: Environment, **_: object) -> None:
    """Read the trips before the first user starts."""
    options = environment.parsed_options
    assert options is not None
    try:
        AdServer.trips = read_trips(
            Path(options.log_folder), count=options.trips, zipf=options.zipf, seed=options.seed
        )
    except LongsightError as error:
        sys.exit(f"error: {error}")


def judge(environment: Environment, **_: object) -> None:
    """Print the table and settle the exit code."""
    total = environment.stats.total
    seconds = max(1e-9, (total.last_request_timestamp or 0) - total.start_time)
    rows = figures(AdServer.answers, environment.parsed_options, seconds=seconds)
    for row in rows:
        print(f"  {row.name:<26}{row.figure:>10.4g}   {row.limit}{'   BREACHED' if row.breached else ''}")
    for reason, count in AdServer.answers.failed.most_common(3):
        print(f"failed: {count} x {reason}")
    breached = [row.name for row in rows if row.breached]
    print(f"load test: breached: {', '.join(breached)}" if breached else "load test: all thresholds hold")
    environment.process_exit_code = 1 if breached else 0


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    figure: float
    limit: str = ""
    breached: bool = False


def figures(answers: Answers, options: Namespace | None, *, seconds: float) -> list[Row]:
    """Return the table: what was measured, against its threshold where it has one."""
    assert options is not None
    rate = (len(answers.taken_ms) + answers.failed.total()) / seconds
    least = options.check_rate * options.rate
    p50, p95, p99 = (quantile(answers.taken_ms, share) for share in (0.5, 0.95, 0.99))
    failed, degraded = answers.share(answers.failed.total()), answers.share(answers.without_history)
    return [
        Row("requests / s", rate, f">= {least:g}", breached=rate < least),
        Row("p50 ms", p50),
        Row("p95 ms", p95),
        # not-a-number (no answer at all) is a breach too
        Row("p99 ms", p99, f"<= {options.check_p99_ms:g}", breached=not p99 <= options.check_p99_ms),
        Row("failed", failed, f"<= {options.check_failures:g}", breached=failed > options.check_failures),
        Row(
            "without history",
            degraded,
            f"<= {options.check_degraded:g}",
            breached=degraded > options.check_degraded,
        ),
        *(Row(f"mean ms, stage {name}", sum(ms) / len(ms)) for name, ms in answers.stages_ms.items()),
    ]


def quantile(values: list[float], share: float) -> float:
    """Return the smallest value that `share` of the values do not exceed; not-a-number without values."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


events.init_command_line_parser.add_listener(add_options)
events.init.add_listener(prepare)
events.quitting.add_listener(judge)
