"""Things timed in turn, so that a machine that slows down slows them alike."""

import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray


def cpu_seconds(
    things: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 3
) -> dict[str, NDArray[np.float64]]:
    """Run everything once a round, after some rounds to warm up; return the seconds of each, `[rounds]`.

    Seconds that this process had the processor: with one thread what a clock shows on an idle core, and beside other
    work still that, where a clock would count the turns of others too.
    """
    taken = {name: np.empty(rounds) for name in things}
    for round_ in range(-warm_up, rounds):
        for name, run in things.items():
            started = time.process_time()
            run()
            if round_ >= 0:
                taken[name][round_] = time.process_time() - started
    return taken
