"""Asks a service for scores that can be compared: again where it was busy or had no history, and how close they are."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from cli.client import Client, RefusedError
from contract.closeness import Closeness

TOLERANCE: Final = 1e-4  # of log-odds: what training and serving may differ by
RETRIES: Final = 3
RETRY_WAIT_S: Final = 0.1
WITHOUT_HISTORY: Final = frozenset({"timeout", "unavailable"})
BUSY: Final = frozenset({429, 503})


def ask(score: Callable[[], dict[str, Any]], name: str) -> tuple[dict[str, Any], int]:
    """Return the answer that `score` gets, and how often it had to be asked for again.

    Args:
        score: asks once.
        name: of the request, for errors.

    Raises:
        RefusedError: it was not scored; if for being busy, again and again.
        cli.client.ServiceUnreachableError: nobody answers.

    """
    for tries in _tries():
        try:
            answer = score()
        except RefusedError as error:
            if error.status not in BUSY or tries == RETRIES:
                raise RefusedError(f"request {name}: {error}", status=error.status) from error
            continue
        if answer["history"]["status"] not in WITHOUT_HISTORY or tries == RETRIES:
            return answer, tries
    raise AssertionError


def closeness_at(url: str) -> Closeness:
    """Ask the service how close the model it serves is to its run; one that does not say so is held to `TOLERANCE`."""
    client = Client(url)
    try:
        _, body = client.get("/readyz")
    finally:
        client.close()
    model = body.get("model") if isinstance(body, dict) else None
    said = model if isinstance(model, dict) else {}
    tolerance, farthest = (
        float(value) if isinstance(value := said.get(name), int | float) else 0.0
        for name in ("tolerance", "farthest")
    )
    return Closeness(
        max(TOLERANCE, tolerance), hard_routing=said.get("hard_routing") is True, measured=farthest
    )


def stages_of(timing: str) -> dict[str, float]:
    """Return the milliseconds by stage that a `Server-Timing` header tells."""
    found: dict[str, float] = {}
    for part in timing.split(","):
        stage, _, duration = part.partition(";dur=")
        if duration:
            found[stage.strip()] = float(duration)
    return found


def _tries() -> Iterator[int]:
    """Count 0, 1, ... `RETRIES`, with a longer wait before each."""
    for tries in range(RETRIES + 1):
        if tries:
            time.sleep(RETRY_WAIT_S * tries)
        yield tries
