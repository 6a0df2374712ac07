"""Threads side by side, each with whole requests: for work in pieces too small to be cut among threads.

U requests.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

ResultT = TypeVar("ResultT")


def side_by_side(k_ULD: Tensor, work: Callable[[slice], ResultT]) -> list[ResultT]:
    """Return what `work` makes of each thread's share of the requests, in their order.

    Blocks are too small to be cut among threads: each thread takes whole ones, and its operators run on it alone.
    """
    threads = min(torch.get_num_threads(), len(k_ULD)) if k_ULD.device.type == "cpu" else 1
    if threads == 1:
        return [work(slice(0, len(k_ULD)))]

    def alone(requests: slice) -> ResultT:
        torch.set_num_threads(1)  # of this thread
        with torch.no_grad():  # likewise
            return work(requests)

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(alone, slices(0, len(k_ULD), -(-len(k_ULD) // threads))))
    finally:
        torch.set_num_threads(before)  # threads that are yet to come take the number that was set last


def slices(begin: int, end: int, size: int) -> list[slice]:
    """Return `begin .. end` in slices of at most `size`."""
    return [slice(at, min(at + size, end)) for at in range(begin, end, size)]
