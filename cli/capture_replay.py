"""Sends captured requests again: how long each stage takes now, and whether the scores are what they were.

One at a time, in the order in which they came, at their own timestamps: what the user did since is not seen. Answers
that rest on something else than the captured ones (another version, another history, none) are counted, not compared.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from cli.asking import WITHOUT_HISTORY, ask, closeness_at, stages_of
from cli.captured import open_captures
from cli.client import Client, RefusedError
from cli.differences import Differences, log_odds
from cli.progress import ProgressCallback
from cli.stage_times import StageTimes, Times
from service.capture.record import Captured, packed

_FORMS: Final = {True: "application/msgpack", False: "application/json"}


@dataclass
class Tally:
    """What the answers so far amount to.

    Attributes:
        any_version: answers of other versions than the captured ones are compared too.
        not_compared: requests by why their scores were not.
        refusals: requests by the status that was not 200.

    """

    differences: Differences
    any_version: bool
    times: StageTimes = field(default_factory=StageTimes)
    retries: int = 0
    why: Counter[str] = field(default_factory=Counter)
    not_compared: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    first_refusal: str = ""
    versions: Counter[str] = field(default_factory=Counter)

    def refused(self, captured: Captured, error: RefusedError) -> None:
        """Count a request that the service would not score."""
        self.why[captured.why] += 1
        self.not_compared["refused"] += 1
        self.refusals[str(error.status)] += 1
        self.first_refusal = self.first_refusal or str(error)

    def add(self, captured: Captured, answer: dict[str, Any], *, retries: int) -> None:
        """Count one answer."""
        self.why[captured.why] += 1
        self.retries += retries
        self.versions[f"{answer['model']} {answer['version']}"] += 1
        reason = self._incomparable(captured, answer)
        if reason:
            self.not_compared[reason] += 1
            return
        self.differences.add(
            captured.request_id,
            _ad_ids(captured),
            expected_N=log_odds(np.asarray(captured.answer.scores, dtype=np.float64)),
            found_N=log_odds(np.asarray(answer["scores"], dtype=np.float64)),
        )

    def _incomparable(self, captured: Captured, answer: dict[str, Any]) -> str:
        """Return why the scores need not be what they were; "" if they must."""
        was, now = captured.answer, answer["history"]
        same = (captured.model, captured.version) == (answer["model"], answer["version"])
        if not (same or self.any_version):
            return "another version"
        if was.history.status in WITHOUT_HISTORY:
            return "captured without history"
        if now["status"] in WITHOUT_HISTORY:
            return "without history"
        if (was.history.length, was.history.newest_age_s) != (now["length"], now["newest_age_s"]):
            return "another history"
        return "other ads unknown" if was.unknown_ads != answer["unknown_ads"] else ""

    def report(self, *, seconds: float) -> dict[str, Any]:
        """Sum up; `ok` means that some scores were compared, none is too far off, and nothing was refused."""
        found = self.differences.report()
        return {
            "requests": self.why.total(),
            "why": dict(self.why),
            **self.times.report(),
            "compared": self.differences.compared,
            "not_compared": dict(self.not_compared),
            "refused": dict(self.refusals),
            "first_refusal": self.first_refusal,
            "retries": self.retries,
            "versions": dict(self.versions),
            **found,
            "seconds": seconds,
            "ok": found["ok"] and not self.refusals,
        }


def replay_capture(
    paths: Sequence[Path], *, url: str, limit: int | None, any_version: bool, progress: ProgressCallback
) -> dict[str, Any]:
    """Send captured requests to the service at `url` and compare its answers with the captured ones.

    Args:
        paths: files of captured requests, or folders that hold them.
        url: of the service, such as `http://127.0.0.1:8000`.
        limit: only so many requests, evenly spread; None = all.
        any_version: compare answers by other versions too.
        progress: called with (done, total, label).

    Raises:
        CaptureError: a file holds something else, or there is nothing to send.
        ServiceUnreachableError: nobody answers.

    """
    Client(url).close()  # a wrong URL is found before the files are read
    progress(0, None, "reading the captured requests")
    with open_captures(paths) as captures:
        tally = Tally(
            Differences(closeness_at(url), expected="captured", found="replayed"), any_version=any_version
        )
        total = len(captures) if limit is None else min(limit, len(captures))
        began_s = time.perf_counter()
        client = Client(url)
        try:
            for done, captured in enumerate(captures.evenly(limit)):
                progress(done, total, "sending captured requests")
                _send(client, captured, tally)
        finally:
            client.close()
        seconds = time.perf_counter() - began_s
        return {"cut": list(captures.cut), **tally.report(seconds=seconds)}


def _send(client: Client, captured: Captured, tally: Tally) -> None:
    data = packed(captured)
    headers = {"Content-Type": _FORMS[captured.is_msgpack], "X-Request-Id": captured.request_id}
    timing, round_trip_ms = "", 0.0

    def score() -> dict[str, Any]:
        nonlocal timing, round_trip_ms
        began_s = time.perf_counter()
        answer, timing = client.send_score(data, headers)
        round_trip_ms = 1e3 * (time.perf_counter() - began_s)
        return answer

    try:
        answer, retries = ask(score, captured.request_id)
    except RefusedError as error:
        tally.refused(captured, error)
        return
    times = Times(captured.request_id, captured.why, captured.stage_ms, stages_of(timing))
    tally.times.add(times, round_trip_ms=round_trip_ms)
    tally.add(captured, answer, retries=retries)


def _ad_ids(captured: Captured) -> list[object]:
    candidates: Any = captured.request()["candidates"]
    if isinstance(candidates, dict):
        return list(candidates["ad_id"])
    return [row["ad_id"] if isinstance(row, dict) else row for row in candidates]
