"""A student learns where the sampler's steps end.

    loss = mean |x* - x*_teacher|^2 / D  +  mean (sum <slope, r* - r*_teacher>)^2

The first term, over channels that are not empty, is the interests' own; the second is, to first order, the square
of how far the pair's log-odds are off: what the head does not look at need not be right.

P pairs, c channels, D width.
"""

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

from training.distill.teacher import Lessons
from training.models.diffumin.config import DiffuminConfig
from training.models.diffumin.diffusion import unit_interests
from training.models.diffumin.student import Student
from training.scoring import Progress

EPOCHS: Final = 12
PAIRS_PER_STEP: Final = 512
LEARNING_RATE: Final = 2e-3
LOWEST_RATE: Final = 0.01
"""Of the first, at the last step."""
LOG_ODDS_WEIGHT: Final = 1.0


def fit_student(config: DiffuminConfig, lessons: Lessons, *, seed: int, report: Progress) -> Student:
    """Return a student of these lessons, in eval mode.

    Args:
        config: of the teacher.
        lessons: what the sampler did.
        seed: of its first weights and the order of pairs; torch's own generator is left as it was.
        report: called with (done, total, label).

    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = Student(config)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(student.parameters(), lr=LEARNING_RATE, fused=True)
    epoch_steps = math.ceil(len(lessons) / PAIRS_PER_STEP)
    steps = EPOCHS * epoch_steps
    taken = 0
    for _ in range(EPOCHS):
        order = torch.randperm(len(lessons), generator=generator)
        for some in torch.split(order, PAIRS_PER_STEP):
            fallen = 0.5 * (1 + math.cos(math.pi * taken / steps))
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * (LOWEST_RATE + (1 - LOWEST_RATE) * fallen)
            optimizer.zero_grad(set_to_none=True)
            distillation_loss(student, lessons, some).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            taken += 1
            report(taken, steps, "the student learns")
    return student.eval()


def distillation_loss(student: Student, lessons: Lessons, some: Tensor) -> Tensor:
    """Return the loss of some pairs."""
    off = _mistakes(student, lessons, some)
    interests = off.scaled.square().mean(-1).sum() / off.filled.sum().clamp(min=1.0)
    log_odds_P = (lessons.slope[some] * off.scaled * off.size).sum((-2, -1))
    return interests + LOG_ODDS_WEIGHT * log_odds_P.square().mean()


@torch.inference_mode()
def relative_error(student: Student, lessons: Lessons) -> float:
    """Return the student's squared error over that of leaving every interest as it is (1 = learned nothing)."""
    off = _mistakes(student, lessons, slice(None))
    return float(off.scaled.square().sum() / off.left.square().sum().clamp(min=1e-12))


class _Mistakes(NamedTuple):
    scaled: Tensor
    """`[P, c, D]` where the student is off, in interests of unit variance; zeros in empty channels."""
    left: Tensor
    """`[P, c, D]` where one would be who changes nothing."""
    size: Tensor
    """`[P, c, 1]` what makes scaled interests real ones."""
    filled: Tensor
    """`[P, c, 1]` 1 where a channel is not empty."""


def _mistakes(student: Student, lessons: Lessons, some: Tensor | slice) -> _Mistakes:
    x0_PcD, size_Pc1 = unit_interests(lessons.r[some], student.norm)
    filled_Pc1 = (size_Pc1 > 0).float()
    wanted_PcD = lessons.generated[some] * (filled_Pc1 / (size_Pc1 + (1 - filled_Pc1)))
    refined_PcD = student.refined(x0_PcD, lessons.o[some]) * filled_Pc1
    return _Mistakes(refined_PcD - wanted_PcD, x0_PcD - wanted_PcD, size_Pc1, filled_Pc1)
