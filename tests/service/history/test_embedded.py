"""The embedded Valkey among several processes, and when the one that started it dies."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import redis

from contract.errors import InputError
from service.history.embedded import embedded_server, rewrite_log
from service.layout import StoreError
from tests.service.conftest import client_of, until

PROGRAM = """
import sys, time
from pathlib import Path
import redis
from service.history.embedded import embedded_server
with embedded_server(Path(sys.argv[1])) as url:
    client = redis.Redis.from_url(url)
    client.incr("runs")
    print(client.info("server")["process_id"], flush=True)
    if sys.argv[2:] == ["stay"]:
        time.sleep(60)
"""


@pytest.fixture
def spawn(tmp_path):
    processes = []

    def start(*arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), *arguments]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def pid_of_server(process: "subprocess.Popen[str]") -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def is_alive(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def get(url: str, name: str) -> bytes | None:
    with client_of(url) as client:
        return client.get(name)


def test_it_is_a_real_server_whose_data_outlive_it(tmp_path):
    folder = tmp_path / "with space & percent%20"
    for run in range(2):
        with embedded_server(folder) as url:
            assert url.startswith("unix://")
            with client_of(url) as client:
                assert client.incr("runs") == run + 1
                assert client.config_get("append*")["appendfsync"] == "everysec"
    assert not (folder / "valkey.sock").exists()
    assert not (folder / "server.json").exists()
    assert oct(folder.stat().st_mode)[-3:] == "700"


def test_who_comes_second_joins_and_does_not_stop_it(tmp_path):
    with embedded_server(tmp_path) as first:
        with embedded_server(tmp_path) as second:
            assert second == first
        with client_of(first) as client:
            assert client.ping()
    with pytest.raises(redis.ConnectionError), client_of(first) as client:
        client.ping()


def test_processes_that_race_to_start_it_share_one(tmp_path, spawn):
    racing = [spawn("stay") for _ in range(4)]
    assert len({pid_of_server(process) for process in racing}) == 1
    with embedded_server(tmp_path) as url:
        assert get(url, "runs") == b"4"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_ends_with_the_process_that_started_it(tmp_path, spawn, how):
    owner = spawn("stay")
    server = pid_of_server(owner)
    owner.send_signal(how)
    owner.wait(10)
    with embedded_server(tmp_path) as url:  # while the old one may still be on its way out
        assert not is_alive(server)
        assert get(url, "runs") == b"1"


def test_a_server_that_lost_its_watcher_is_told_to_go(tmp_path, spawn):
    owner = spawn("stay")
    server = pid_of_server(owner)
    for watcher in psutil.Process(server).children():
        watcher.kill()
    owner.kill()
    owner.wait(10)
    assert is_alive(server)
    with embedded_server(tmp_path) as url:
        assert not is_alive(server)
        assert get(url, "runs") == b"1"


def test_what_a_killed_server_leaves_behind_is_no_obstacle(tmp_path):
    with embedded_server(tmp_path) as url:
        with client_of(url) as client:
            client.set("kept", "yes")
            process_id = client.info("server")["process_id"]
        os.kill(process_id, signal.SIGKILL)
        until(lambda: not can_connect(tmp_path / "valkey.sock"))
    (tmp_path / "server.json").write_text("not json")
    with embedded_server(tmp_path) as url:
        assert get(url, "kept") == b"yes"


def can_connect(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def test_a_long_path_falls_back_to_a_port_with_a_password(tmp_path):
    folder = tmp_path / ("d" * 120)
    with embedded_server(folder) as url:
        assert url.startswith("redis://:")
        with client_of(url) as client:
            client.set("a", 1)
        port = int(url.rpartition(":")[2].split("/")[0])
        with pytest.raises(redis.AuthenticationError), client_of(f"redis://127.0.0.1:{port}") as client:
            client.ping()
        for name in ("valkey.conf", "server.json"):
            assert (folder / name).stat().st_mode & 0o077 == 0 or folder.stat().st_mode & 0o077 == 0
        with embedded_server(folder) as joined:
            assert joined == url


def test_a_rewrite_is_waited_for(tmp_path):
    with embedded_server(tmp_path) as url:
        with client_of(url) as client:
            for _ in range(100):
                client.set("same", b"x" * 10_000)
        size = sum(path.stat().st_size for path in (tmp_path / "appendonlydir").iterdir())
        rewrite_log(url)
        assert sum(path.stat().st_size for path in (tmp_path / "appendonlydir").iterdir()) < size / 10


def test_a_rewrite_that_the_server_began_by_itself_is_waited_for(tmp_path):
    with embedded_server(tmp_path) as url, client_of(url) as client:
        client.mset({f"key{number}": b"x" for number in range(50)})
        client.config_set("rdb-key-save-delay", 10_000)  # microseconds of each of the 50: half a second
        client.bgrewriteaof()
        assert client.info("persistence")["aof_rewrite_in_progress"]
        rewrite_log(url)
        assert not client.info("persistence")["aof_rewrite_in_progress"]


def test_a_folder_that_can_not_be_one_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't hold an embedded Valkey"), embedded_server(tmp_path / "file"):
        pass


def test_a_server_that_does_not_start_says_why(tmp_path):
    (tmp_path / "appendonlydir").mkdir()
    (tmp_path / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(StoreError, match="ended while starting"), embedded_server(tmp_path):
        pass
    with (
        pytest.raises(StoreError, match="ended while starting"),
        embedded_server(tmp_path, binary=Path("/none")),
    ):
        pass
