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
