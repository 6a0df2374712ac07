"""Softmax, and the log-sum-exp that comes with it.

P any leading shape, L what the softmax is over.
"""

from typing import Final

import torch
from torch import Tensor

FLOOR: Final = 60.0


def floored_softmax(logit_PL: Tensor) -> tuple[Tensor, Tensor]:
    """Return the softmax, nothing below e^-60 of the largest weight, and the largest logit `[P]`.

    Exponentials of masked logits would be denormal numbers on their way to 0: many times slower on a CPU.
    """
    highest_P1 = logit_PL.amax(-1, keepdim=True)
    return torch.softmax(torch.maximum(logit_PL, highest_P1 - FLOOR), dim=-1), highest_P1.squeeze(-1)


def log_sum_exp(highest_P: Tensor, softmax_PL: Tensor) -> Tensor:
    """Return the log-sum-exp `[P]` of logits, given the largest and their softmax.

    It is the largest logit minus the log of the largest weight: no second pass of exponentials.
    """
    return highest_P - softmax_PL.amax(-1).log()
