"""Runs the load test for 30 s against the demo, which is started first if nobody answers at its address.

Further arguments go to locust: `make loadtest ARGS="--rate 200 --check-p99-ms 50"`. The demo's log must lie in
`.longsight/demo/log`; starting the demo puts it there.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cli.client import Client
from contract.errors import LongsightError

HERE: Final = Path(__file__).parent
REPOSITORY: Final = HERE.parent
LOG: Final = REPOSITORY / ".longsight" / "demo" / "log"
PORT: Final = 8000
USERS: Final = 16
DEMO_S: Final = 1800.0  # the first start imports and trains
END_S: Final = 60.0


def main() -> int:
    """Return the exit code: 0 = every threshold holds, 1 = one is crossed."""
    url = f"http://127.0.0.1:{os.environ.get('LOADTEST_PORT', PORT)}"
    with contextlib.nullcontext() if is_ready(url) else demo(url):
        command = [sys.executable, "-m", "locust", "--locustfile", str(HERE / "locustfile.py")]
        command += ["--headless", "--only-summary", "--users", str(USERS), "--spawn-rate", str(USERS)]
        command += ["--run-time", "30s", "--host", url, "--log-folder", str(LOG), *sys.argv[1:]]
        return subprocess.run(command, check=False).returncode


def is_ready(url: str) -> bool:
    """Return whether a service answers there and is ready."""
    client = Client(url, timeout_s=5)
    try:
        status, _ = client.get("/readyz")
    except LongsightError:
        return False
    finally:
        client.close()
    return status == 200


@contextlib.contextmanager
def demo(url: str) -> Iterator[None]:
    """Run the demo while the block runs, from when it is ready.

    Raises:
        LongsightError: the demo ended, or was not ready in time.

    """
    command = [sys.executable, "-m", "cli", "demo", "--port", url.rpartition(":")[2]]
    process = subprocess.Popen(command, cwd=REPOSITORY)
    try:
        deadline = time.monotonic() + DEMO_S
        while not is_ready(url):
            if process.poll() is not None:
                raise LongsightError(f"the demo ended with exit code {process.returncode}")
            if time.monotonic() > deadline:
                raise LongsightError(f"the demo was not ready within {DEMO_S:.0f} s")
            time.sleep(0.5)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        process.kill()
        process.wait()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LongsightError as error:
        sys.exit(f"error: {error}")
