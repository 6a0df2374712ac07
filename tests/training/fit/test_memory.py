"""What a step frees serves the next one."""

import resource
import subprocess
import sys

import pytest

PAGES = 12 << 10  # of 4 KiB: 48 MiB, more than glibc ever keeps unasked
SCRIPT = """
import ctypes, resource, sys
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # no huge pages, which some systems give unasked: one fault for 512 pages
import torch
from training.fit.memory import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    keep_freed_memory()
def use():
    torch.ones(12 << 20)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(resource.getpagesize() != 4096, reason="counts pages of 4 KiB")
def test_memory_that_was_freed_is_used_again_without_asking_the_system():
    faults = {}
    for how in ("keep", "leave"):
        ended = subprocess.run(
            [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True
        )
        faults[how] = int(ended.stdout)
    assert faults["leave"] > 15 * PAGES  # of twenty rounds
    assert faults["keep"] < faults["leave"] / 2
