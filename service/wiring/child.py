"""`python -m service.wiring.child SOCKET STATUS`: one of several workers; started by `processes`, not by people.

Its standard input brings three lines, the settings, whether it replaces another worker, and the folder in which the
workers agree on their slots; then an empty line once all workers are ready; and it stays open for as long as the
parent lives. To the descriptor STATUS it writes one line of
JSON: `{"ready": true}`, or why it could not start.
"""

import io
import json
import os
import socket
import sys
import threading
from pathlib import Path

from contract.errors import LongsightError
from service.settings import Settings
from service.wiring import configure_logging
from service.wiring.presence import present
from service.wiring.worker import Company, Worker


def main() -> int:
    """Serve until the parent says so, or is gone; returns the exit code."""
    # Not sys.stdin: its lock, held by a thread that waits for a line, would abort the process at its end.
    orders = io.FileIO(sys.stdin.fileno(), closefd=False)
    settings = Settings.model_validate_json(orders.readline())
    replaces = bool(json.loads(orders.readline()))
    exchange = Path(json.loads(orders.readline()))
    configure_logging(settings)
    status = os.fdopen(int(sys.argv[2]), "w", encoding="utf-8")

    def report(**content: object) -> None:
        status.write(json.dumps(content) + "\n")
        status.flush()

    with socket.socket(fileno=int(sys.argv[1])) as listener, present(exchange):
        company = Company(on_ready=lambda: report(ready=True), replaces=replaces)
        worker = Worker(settings, listener, exchange, company=company)
        threading.Thread(target=_obey_parent, args=(worker, orders), daemon=True).start()
        try:
            worker.run()
        except LongsightError as error:
            report(error=str(error), code=error.exit_code)
            return error.exit_code
    return 0


def _obey_parent(worker: Worker, orders: io.FileIO) -> None:
    while orders.readline():
        worker.open()
    worker.end_soon()


if __name__ == "__main__":
    sys.exit(main())
