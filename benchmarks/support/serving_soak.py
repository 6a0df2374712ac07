"""Memory: does it come to rest under requests of random sizes, and what does one more worker take?"""

import threading
import time
from typing import Any, Final

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.support.closed_loop import Target, closed_loop
from benchmarks.support.running_service import running
from benchmarks.support.score_traffic import write_bodies
from benchmarks.support.serving_parts import WORKERS, Effort
from benchmarks.support.serving_stand import Stand
from benchmarks.support.serving_trace import mixed_requests

BUNDLE: Final = "tin-5000"
CONNECTIONS: Final = 8
SAMPLES: Final = 300
WARM_UP: Final = 0.3
"""Share of the soak that does not count: arenas grow to the largest shapes, pools fill."""
MB: Final = 1e6


def soak(stand: Stand, effort: Effort) -> dict[str, Any]:
    """Load two workers with 1 to 500 candidates and histories of 20 to 5,000 events; return how memory goes."""
    bodies = [one.json() for one in mixed_requests(stand, least=1)]
    path = write_bodies(stand.folder / "bodies" / "soak", bodies)
    with running(stand.prepared(BUNDLE), *WORKERS.arguments) as ready:
        parent = psutil.Process(ready.process.pid)
        workers = [one for one in parent.children(recursive=True) if one.memory_info().rss > 20 * MB]
        url = f"http://{ready.host}:{ready.port}/score"
        target = Target(url, path, {"service": parent.pid, "store": stand.store_pid})
        sampler = _Sampler([parent, *workers], every_s=effort.soak_s / SAMPLES)
        sampler.start()
        load = closed_loop(target, connections=CONNECTIONS, seconds=effort.soak_s, warm_up_s=0)
        sampler.stop()
        uss_mb = [one.memory_full_info().uss / MB for one in workers]
    counted = slice(int(WARM_UP * len(sampler.rss_mb)), None)
    slope = theil_sen(np.array(sampler.at_s[counted]), np.array(sampler.rss_mb[counted]))
    level = float(np.median(sampler.rss_mb[counted]))
    return {
        "load": load.table(),
        "rss_mb": [round(value, 1) for value in sampler.rss_mb[:: max(1, SAMPLES // 60)]],
        "level_mb": level,
        "growth_mb_per_10_min": slope * 600,
        "growth_share": slope * 600 / level,
        "uss_mb": uss_mb,
    }


def theil_sen(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return the median slope over all pairs of points: one jump of an arena does not tilt it."""
    first, second = np.triu_indices(len(x), 1)
    if not len(first):
        return 0.0
    return float(np.median((y[second] - y[first]) / (x[second] - x[first])))


class _Sampler(threading.Thread):
    """Reads the resident memory of processes together, until it is stopped."""

    def __init__(self, processes: list[psutil.Process], *, every_s: float) -> None:
        super().__init__(daemon=True)
        self._processes = processes
        self._every_s = every_s
        self._stopped = threading.Event()
        self.at_s: list[float] = []
        self.rss_mb: list[float] = []

    def run(self) -> None:
        """Sample."""
        started = time.monotonic()
        while not self._stopped.wait(self._every_s):
            self.at_s.append(time.monotonic() - started)
            self.rss_mb.append(sum(one.memory_info().rss for one in self._processes) / MB)

    def stop(self) -> None:
        """End."""
        self._stopped.set()
        self.join()
