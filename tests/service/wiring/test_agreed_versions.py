"""Workers serve the versions that they agreed on, whatever lies in the folders of the bundles by now."""

import http.client
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.slots import TOKEN, VERSIONS, answered_by, change, slots
from tests.support.workers import until, workers_of

WAIT_S = 60.0  # a worker builds a bundle within it, whatever else the machine does


@pytest.fixture
def own(root, tmp_path):
    """Bundles `a` and `b` in a root of the test's own."""
    for name in "ab":
        shutil.copytree(root / name, tmp_path / "bundles" / name)
    return tmp_path / "bundles"


@pytest.fixture
def write_anew(root, own):
    """Puts another version into a bundle's folder, as an export does: the old files stay with who has them open."""

    def written(name, version="c"):
        shutil.copytree(root / version, own.parent / "written")
        shutil.rmtree(own / name)
        (own.parent / "written").rename(own / name)

    return written


def reports(folder):
    """What the workers of the service say of themselves, by process id."""
    return {int(path.stem): json.loads(path.read_text()) for path in folder.glob("*/[0-9]*.json")}


def change_patiently(started, slot, bundle):
    """A change that may take longer than other answers; returns status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", started.port, timeout=2 * WAIT_S)
    body, headers = json.dumps({"bundle": bundle}), {"Authorization": f"Bearer {TOKEN}"}
    connection.request("POST", f"/models/{slot}", body, headers)
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    return answer.status, content


def test_a_change_that_is_set_back_needs_nothing_from_the_folders_of_the_bundles(
    serving, own, write_anew, tmp_path
):
    shared = tmp_path / "temporary"
    shared.mkdir()
    with (
        serving("--workers", "2", bundle=own / "a", TMPDIR=str(shared)) as started,
        ThreadPoolExecutor() as pool,
    ):
        started.wait()
        late, leader = workers_of(started)
        late.suspend()
        changing = pool.submit(change_patiently, started, "champion", "b")
        until(lambda: list(shared.glob("*/proposal.json")))
        leader.suspend()
        late.resume()
        until(lambda: reports(shared)[late.pid]["outcome"] == "prepared", WAIT_S)
        late.suspend()
        write_anew("a")
        leader.resume()
        until(lambda: reports(shared)[leader.pid]["generation"] == 1, WAIT_S)
        assert answered_by(started) == VERSIONS["b"]
        status, problem = changing.result(2 * WAIT_S)
        assert (status, problem["type"]) == (503, "urn:longsight:slots-not-changed")
        assert str(late.pid) in problem["detail"]
        assert {answered_by(started) for _ in range(5)} == {VERSIONS["a"]}
        late.resume()
        until(lambda: {report["generation"] for report in reports(shared).values()} == {2})
        for worker in (leader, late):
            worker.suspend()
            assert answered_by(started) == VERSIONS["a"]
            worker.resume()
        until(lambda: started.output().count(f"mean_pool {VERSIONS['b']} is closed") == 2)
        assert " ERROR service.wiring.follower" not in started.output()
        assert slots(change(started, "champion", "b"))["champion"]["version"] == VERSIONS["b"]
        until(lambda: started.output().count(f"tin {VERSIONS['a']} is closed") == 2)


def ready_workers(started):
    return started.output().count("INFO service.wiring.worker: ready")


@pytest.mark.parametrize("name", ["a", "b"], ids=["as it was started", "as it was changed"])
def test_a_worker_that_replaces_another_serves_no_other_version_until_it_is_told_to(
    serving, own, write_anew, name
):
    with serving("--workers", "2", bundle=own / "a") as started:
        started.wait()
        if name == "b":
            assert change(started, "champion", "b").status == 200
        write_anew(name)
        workers_of(started)[0].kill()
        told = f"{own / name}: holds version {VERSIONS['c']} now, {VERSIONS[name]} was meant"
        until(lambda: told in started.output(), WAIT_S)
        (line,) = [line for line in started.output().splitlines() if told in line][:1]
        assert " ERROR service.wiring.processes: worker " in line
        assert "put that version back, or POST /models/champion with what lies there, or restart" in line
        assert started.get("/readyz").status == 200
        assert {answered_by(started) for _ in range(10)} == {VERSIONS[name]}
        row = slots(change(started, "champion", name))["champion"]
        assert (row["version"], row["previous"]["version"]) == (VERSIONS["c"], VERSIONS[name])
        until(lambda: ready_workers(started) == 3, WAIT_S)
        for worker in workers_of(started):
            worker.suspend()
            assert answered_by(started) == VERSIONS["c"]
            worker.resume()


def test_a_challenger_of_another_version_is_left_out_of_the_worker_that_would_have_to_load_it(
    serving, own, write_anew
):
    with serving("--workers", "2", bundle=own / "a") as started:
        started.wait()
        assert change(started, "challenger", "b", share=1).status == 200
        write_anew("b")
        killed, other = workers_of(started)
        killed.kill()
        until(lambda: ready_workers(started) == 3, WAIT_S)
        assert f"the challenger can't be served: {own / 'b'}: holds version" in started.output()
        other.suspend()
        assert answered_by(started) == VERSIONS["a"]
        assert VERSIONS["c"] in slots(started.get("/models"))["challenger"]["problem"]
        other.resume()


def test_when_no_worker_is_left_that_has_the_version_the_service_ends_and_a_start_takes_what_lies_there(
    serving, own, write_anew
):
    with serving("--workers", "2", bundle=own / "a") as started:
        started.wait()
        write_anew("a")
        for worker in workers_of(started):
            worker.kill()
        assert started.process.wait(WAIT_S) == 2
        last = started.output().strip().splitlines()[-1]
        assert last.startswith(f"error: {own / 'a'}: holds version {VERSIONS['c']} now")
    with serving("--workers", "2", bundle=own / "a") as started:
        started.wait()
        assert answered_by(started) == VERSIONS["c"]


def test_a_worker_that_finds_the_file_of_the_slots_gone_does_not_go_back_to_the_start(serving, own, tmp_path):
    with serving("--workers", "2", bundle=own / "a") as started:
        started.wait()
        assert change(started, "champion", "b").status == 200
        (file,) = (tmp_path / "state").glob("*.json")
        file.unlink()
        workers_of(started)[0].kill()
        until(lambda: f"{file} is not what the other workers serve" in started.output(), WAIT_S)
        assert {answered_by(started) for _ in range(10)} == {VERSIONS["b"]}
        assert change(started, "challenger", "a").status == 200
        until(lambda: ready_workers(started) == 3, WAIT_S)
        for worker in workers_of(started):
            worker.suspend()
            assert answered_by(started, model="champion") == VERSIONS["b"]
            worker.resume()
