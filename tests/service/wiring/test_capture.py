"""Requests caught by a real service and sent again to a real one."""

import contextlib
import json
import resource
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import msgpack
import pytest

from cli.main import run
from service.capture.record import parse
from service.history.load import load
from tests.service.conftest import until
from tests.support.serving import service
from tests.support.tiny import tiny_bundle, tiny_log

LONG_S = 20.0
BODY = {"user_id": "5", "candidates": [str(100 + index) for index in range(25)], "timestamp": 1_508_000_000}


def settings(path, **more):
    usual = {"path": path, "sample": 1, "per_second": 0}
    return {f"LONGSIGHT_CAPTURE__{name.upper()}": str(value) for name, value in {**usual, **more}.items()}


def captured(folder):
    """Return all requests of a folder; the last line of a file may be cut, no other."""
    found = []
    for path in folder.glob("*.jsonl*"):
        *whole, last = path.read_bytes().split(b"\n")
        found += [parse(line) for line in whole]
        assert last == b"" or path.suffix == ".jsonl"
    return found


def replay(capsys, port, *files, more=()):
    """Return the exit code and the result of `replay-capture`."""
    code = run(["replay-capture", *map(str, files), "--url", f"http://127.0.0.1:{port}", "--json", *more])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def bodies(count):
    """Requests of all forms: lists, columns, objects, without a timestamp, without a user."""
    for number in range(count):
        user = {"user_id": number % 40, "request_id": f"r-{number}"}
        yield {**user, "candidates": [str(100 + number + index) for index in range(9)]}
        yield {**user, "candidates": {"ad_id": [101, 102], "context": {"placement": ["top", None]}}}
        yield {**user, "candidates": [{"ad_id": "103", "ad": {"price": 1.7}}], "timestamp": 1_508_000_000}
        yield {"user_id": None, "candidates": ["104"], "deadline_ms": 5000.0, "context": {"hour": 7.25}}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "captured"


def test_what_was_captured_is_answered_alike_when_it_is_sent_again(house, folder, capsys):
    with service(house.bundle, house.redis, **settings(folder / "c.jsonl")) as started:
        started.wait()
        asked = list(bodies(20))
        answers = [started.score(body).json for body in asked]
        packed = {"Content-Type": "application/msgpack"}
        answers += [msgpack.unpackb(started.score(msgpack.packb(asked[0]), **packed).data)]
        until(
            lambda: started.metric("longsight_captured_total", result="sample") == len(answers),
            timeout_s=LONG_S,
        )
        kept = captured(folder)
        assert [each.answer.scores for each in kept] == [answer["scores"] for answer in answers]
        assert [each.body for each in kept] == [*asked, None]
        assert {each.slot for each in kept} == {"champion"}
        assert abs(kept[0].at - time.time()) < 3600
        assert kept[0].timestamp == int(kept[0].at)
        assert set(kept[0].stage_ms) == {"parse", "history", "encode", "queue", "infer", "respond"}
        assert all(sum(each.stage_ms.values()) <= each.total_ms + 0.01 for each in kept)
        code, result = replay(capsys, started.port, folder / "c.jsonl")
    assert (code, result["ok"], result["not_compared"]) == (0, True, {})
    assert result["requests"] == len(answers)
    assert result["compared"] == sum(len(answer["scores"]) for answer in answers)
    assert result["difference"]["max"] == pytest.approx(0, abs=1e-6)
    assert result["milliseconds"]["infer"]["replayed"]["p50"] > 0


def test_another_bundle_shows_as_differences(house, folder, tmp_path, capsys):
    with service(house.bundle, house.redis, **settings(folder / "c.jsonl")) as started:
        started.wait()
        for body in bodies(5):
            assert started.score(body).status == 200
        assert started.end() == 0
    other = tiny_bundle(tmp_path, "mean_pool")
    with service(other, house.redis) as started:
        started.wait()
        code, result = replay(capsys, started.port, folder)
        assert (code, result["compared"], result["not_compared"]) == (1, 0, {"another version": 20})
        code, result = replay(capsys, started.port, folder, more=["--any-version"])
    assert (code, result["ok"]) == (1, False)
    assert result["beyond_tolerance"] > 0
    assert result["worst"]["captured"] != result["worst"]["replayed"]


def test_requests_whose_history_is_another_one_since_are_counted_apart(
    house, own_server, folder, tmp_path, capsys
):
    with service(house.bundle, own_server.url, **settings(folder / "c.jsonl")) as started:
        started.wait()
        assert started.score(BODY).json["history"]["status"] == "empty"
        load(tiny_log(tmp_path), redis_url=own_server.url)

        def complete():
            answer = started.score(BODY).json
            return answer["history"]["status"] == "hit" and answer["unknown_ads"] == 0

        until(complete, timeout_s=LONG_S)
        assert started.end() == 0
    with service(house.bundle, own_server.url) as started:
        started.wait()
        code, result = replay(capsys, started.port, folder)
    assert (code, result["ok"]) == (0, True)
    assert result["not_compared"]["another history"] >= 1
    assert result["compared"] >= 25


def test_slow_requests_are_kept_without_a_sample(house, own_server, folder, tmp_path):
    load(tiny_log(tmp_path), redis_url=own_server.url)
    keep = settings(folder / "c.jsonl", sample=0, slow_ms=300)
    with service(house.bundle, own_server.url, LONGSIGHT_REDIS__READ_TIMEOUT_S="5", **keep) as started:
        started.wait()
        own_server.client.client_pause(1000)
        assert started.score({**BODY, "request_id": "slow"}).status == 200
        until(lambda: started.metric("longsight_captured_total", result="slow") >= 1, timeout_s=LONG_S)
        slow = next(each for each in captured(folder) if each.request_id == "slow")
    assert slow.why == "slow"
    assert slow.total_ms > 300
    assert max(slow.stage_ms, key=slow.stage_ms.get) == "history"


def test_a_limit_for_each_second_holds(house, folder):
    with service(house.bundle, house.redis, **settings(folder / "c.jsonl", per_second=1)) as started:
        started.wait()
        began = time.monotonic()
        for _ in range(50):
            started.score(BODY)
        seconds = time.monotonic() - began
        kept = started.metric("longsight_captured_total", result="over_limit")
        assert 50 - (seconds + 2) <= kept < 50
        assert started.end() == 0
    assert len(captured(folder)) == 50 - kept


def ask(started, count):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: started.score({**BODY, "request_id": f"n-{n}"}), range(count)))
    assert {answer.status for answer in answers} == {200}


def test_two_workers_lose_nothing_and_rotate_files_of_their_own(house, folder, capsys):
    keep = settings(folder / "c.jsonl", max_bytes=1 << 16, files=100)
    with service(house.bundle, house.redis, "--workers", "2", **keep) as started:
        started.wait()
        ask(started, 600)
        assert started.end() == 0
    names = {path.name for path in folder.glob("*.jsonl*")}
    assert {"c.jsonl", "c-2.jsonl"} <= names
    assert len(names) > 2
    assert Counter(each.request_id for each in captured(folder)) == Counter(f"n-{n}" for n in range(600))
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    with service(house.bundle, house.redis) as started:
        started.wait()
        code, result = replay(capsys, started.port, folder, more=["--limit", "50"])
    assert (code, result["requests"], result["ok"]) == (0, 50, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_amid_traffic_loses_no_answered_request(house, folder, number):
    with service(house.bundle, house.redis, **settings(folder / "c.jsonl")) as started:
        started.wait()
        answered = []

        def go_on(caller):
            for count in range(100_000):
                name = f"{caller}-{count}"
                with contextlib.suppress(OSError):
                    if started.score({**BODY, "request_id": name}).status == 200:
                        answered.append(name)
                        continue
                return

        with ThreadPoolExecutor(4) as pool:
            callers = [pool.submit(go_on, caller) for caller in range(4)]
            until(lambda: len(answered) > 100, timeout_s=LONG_S)
            assert started.end(number) == 0
            for caller in callers:
                caller.result(LONG_S)
    assert set(answered) <= {each.request_id for each in captured(folder)}
    assert (folder / "c.jsonl").read_bytes().endswith(b"\n")


def test_a_killed_service_leaves_a_file_that_can_be_sent_again(house, folder, capsys):
    with service(house.bundle, house.redis, **settings(folder / "c.jsonl")) as started:
        started.wait()
        for body in bodies(10):
            started.score(body)
        until(lambda: (folder / "c.jsonl").stat().st_size > 0, timeout_s=LONG_S)
        started.end(signal.SIGKILL)
    with (folder / "c.jsonl").open("ab") as file:
        file.write(b'{"capture":1,"at":17')
    with service(house.bundle, house.redis, **settings(folder / "c.jsonl")) as started:
        started.wait()
        kept = captured(folder)
        assert kept
        code, result = replay(capsys, started.port, folder)
    assert (code, result["ok"], result["cut"]) == (0, True, [])


def test_a_full_disk_costs_captures_and_no_answers(house, folder):
    with service(house.bundle, house.redis, **settings(folder / "c.jsonl")) as started:
        started.wait()
        started.score({**BODY, "request_id": "before"})
        until(lambda: started.metric("longsight_captured_total", result="sample") == 1, timeout_s=LONG_S)
        usual = resource.prlimit(started.process.pid, resource.RLIMIT_FSIZE)
        size = (folder / "c.jsonl").stat().st_size
        resource.prlimit(started.process.pid, resource.RLIMIT_FSIZE, (size + 700, usual[1]))
        for _ in range(5):
            assert started.score(BODY).status == 200
        until(lambda: started.metric("longsight_captured_total", result="failed") == 5, timeout_s=LONG_S)
        assert started.get("/readyz").status == 200
        resource.prlimit(started.process.pid, resource.RLIMIT_FSIZE, usual)
        started.score({**BODY, "request_id": "after"})
        assert started.end() == 0
    assert [each.request_id for each in captured(folder)] == ["before", "after"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_path_that_cannot_be_written_ends_the_program_at_its_start(house, tmp_path, workers):
    (tmp_path / "c.jsonl").write_text("my notes\n")
    with service(
        house.bundle, house.redis, "--workers", workers, **settings(tmp_path / "c.jsonl")
    ) as started:
        assert started.process.wait(40) == 2
        assert "holds something other than captured requests" in started.output()
        assert "Traceback" not in started.output()
    assert (tmp_path / "c.jsonl").read_text() == "my notes\n"


def test_a_capture_that_would_keep_nothing_is_refused(house, tmp_path):
    with service(house.bundle, house.redis, **settings(tmp_path / "c.jsonl", sample=0)) as started:
        assert started.process.wait(40) == 2
        assert "no request would ever be kept" in started.output()


def test_off_by_default(house):
    with service(house.bundle, house.redis) as started:
        started.wait()
        started.score(BODY)
        assert started.end() == 0
        assert "requests are kept" not in started.output()
