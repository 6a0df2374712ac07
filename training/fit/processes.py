"""Several processes, started by torchrun, that train one model: each takes a part of every batch.

Gradients are sums over valid rows divided by the rows of the whole batch, so adding them up gives what one
process would have had. All processes then take the same step on equal weights: only gradients travel, and of
the tables only the rows that were touched. gloo on the CPU, nccl on CUDA.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from contract.errors import InputError, LongsightError
from training.fit.peers import Alone, Peers

_OF_TORCHRUN: Final = ("RANK", "MASTER_ADDR", "MASTER_PORT")
TIMEOUT: Final = timedelta(minutes=10)
"""After this long without an answer a process is taken for dead."""


class Processes(Peers):
    """The processes of one torchrun."""

    def __init__(self, device: str) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self.device = device

    def add_up(self, parts: list[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one exchange."""
        bucket = torch.cat([part.flatten() for part in parts])
        with _naming_the_dead():
            dist.all_reduce(bucket)
        for part, summed in zip(parts, torch.split(bucket, [part.numel() for part in parts]), strict=True):
            part.copy_(summed.view_as(part))

    def merge_rows(self, rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distinct rows of all processes, ascending, and the sums of their values."""
        counts = self._gathered(torch.tensor([len(rows)], device=self.device))
        longest = max(int(count) for count in counts)
        every_rows = self._gathered(_padded(rows, longest))
        every_values = self._gathered(_padded(values, longest))
        parts = [part[: int(count)] for part, count in zip(every_rows, counts, strict=True)]
        merged, place = torch.unique(torch.cat(parts), return_inverse=True)
        summed = values.new_zeros(len(merged), values.shape[1])
        # One process after the other: its rows are distinct, so the order of sums is fixed, on a GPU too.
        for where, part in zip(torch.split(place, [len(part) for part in parts]), every_values, strict=True):
            summed.index_add_(0, where, part[: len(where)])
        return merged, summed

    def any(self, flag: bool) -> bool:  # noqa: FBT001
        """Tell whether the flag is set in any process."""
        return any(bool(each) for each in self._gathered(torch.tensor([int(flag)], device=self.device)))

    def collect(self, values: NDArray[np.float32], sizes: list[int]) -> list[NDArray[np.float32]]:
        """Return every process's values, by rank."""
        padded = _padded(torch.from_numpy(values).to(self.device), max(sizes))
        return [each[:size].cpu().numpy() for each, size in zip(self._gathered(padded), sizes, strict=True)]

    def _gathered(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all processes, by rank; they have one shape."""
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        with _naming_the_dead():
            dist.all_gather(found, tensor)
        return found


@contextmanager
def peers_of_environment(device: str) -> Iterator[Peers]:
    """Yield the processes that torchrun started, told by its environment; without it this process is alone.

    Raises:
        InputError: the environment speaks of several processes, but not as torchrun does.

    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        yield Alone()
        return
    lacking = [name for name in _OF_TORCHRUN if name not in os.environ]
    if lacking:
        raise InputError(
            f"WORLD_SIZE is {size}, but {lacking[0]} is not set: torchrun did not start this process; "
            "start it with torchrun, or unset WORLD_SIZE"
        )
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    with _naming_the_dead():
        dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Processes(device)
    finally:
        dist.destroy_process_group()


@contextmanager
def _naming_the_dead() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise LongsightError(
            f"another process of this training ended or does not answer ({reason}); see what it said"
        ) from error


def _padded(tensor: Tensor, length: int) -> Tensor:
    """Return the tensor with zeros behind it, `length` entries in all."""
    padded = tensor.new_zeros(length, *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    return padded
