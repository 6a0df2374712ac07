"""`python -m service.wiring.child SOCKET STATUS`: one of several workers; started by `processes`, not by people.

Its standard input brings the settings as one line and then stays open for as long as the parent lives. To the
descriptor STATUS it writes one line of JSON: `{"ready": true}`, or why it could not start.
"""

import json
import os
import socket
import sys
import threading

from contract.errors import LongsightError
from service.settings import Settings
from service.wiring import configure_logging
from service.wiring.worker import Worker


def main() -> int:
    """Serve until the parent says so, or is gone; returns the exit code."""
    settings = Settings.model_validate_json(sys.stdin.buffer.readline())
    configure_logging(settings)
    status = os.fdopen(int(sys.argv[2]), "w", encoding="utf-8")

    def report(**content: object) -> None:
        status.write(json.dumps(content) + "\n")
        status.flush()

    with socket.socket(fileno=int(sys.argv[1])) as listener:
        worker = Worker(settings, listener, on_ready=lambda: report(ready=True))
        threading.Thread(target=_end_with_parent, args=(worker,), daemon=True).start()
        try:
            worker.run()
        except LongsightError as error:
            report(error=str(error), code=error.exit_code)
            return error.exit_code
    return 0


def _end_with_parent(worker: Worker) -> None:
    while sys.stdin.buffer.read(1):
        pass
    worker.end_soon()


if __name__ == "__main__":
    sys.exit(main())
