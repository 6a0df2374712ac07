"""The priority of the engine's threads against the event loop's.

While every core runs a graph, the event loop waits for a turn of one of them, and with it every request: those that
arrive, those whose history was read, those whose answer is ready. On Linux a thread has a niceness of its own, so the
graphs' can be lower: the loop then goes on at once, and the graph loses nothing but the moments the loop needs.
"""

import contextlib
import os
import sys
import threading


def give_way(steps: int) -> None:
    """Lower the calling thread's priority by steps of niceness, below what its process was started with.

    Args:
        steps: 0..19; the niceness ends at 19 in any case.

    It does nothing where threads have no niceness of their own (anything but Linux), nor where it is forbidden:
    the engine works all the same.

    """
    if not steps or sys.platform != "linux":
        return
    with contextlib.suppress(OSError):
        started_with = os.getpriority(os.PRIO_PROCESS, os.getpid())
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(19, started_with + steps))
