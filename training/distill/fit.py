"""A student learns where the sampler's steps end.

    loss = mean |x* - x*_teacher|^2 / D  +  mean (sum <slope, r* - r*_teacher>)^2

The first term, over channels that are not empty, is the interests' own; the second is, to first order, the square
of how far the pair's log-odds are off: what the head does not look at need not be right.

P pairs, c channels, D width.
"""

import math
from typing import Final

import torch
from torch import Tensor

from training.distill.teacher import Lessons
from training.models.diffumin.config import DiffuminConfig
from training.models.diffumin.student import Student, scaled
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
    r_PcD, slope_PcD = lessons.r[some], lessons.slope[some]
    x0_PcD, size_Pc1 = scaled(r_PcD)
    wanted_PcD = lessons.generated[some]
    off_PcD = student.refined(x0_PcD, lessons.o[some]) * size_Pc1 - wanted_PcD
    there_Pc1 = (size_Pc1 > 0).float()
    off_scaled_PcD = off_PcD * there_Pc1 / (size_Pc1 + 1e-12)
    interests = off_scaled_PcD.square().sum() / (there_Pc1.sum().clamp(min=1.0) * r_PcD.shape[-1])
    log_odds_P = (slope_PcD * off_PcD).sum((-2, -1))
    return interests + LOG_ODDS_WEIGHT * log_odds_P.square().mean()


@torch.inference_mode()
def relative_error(student: Student, lessons: Lessons) -> float:
    """Return the student's squared error over that of leaving every interest as it is (1 = learned nothing)."""
    x0_PcD, size_Pc1 = scaled(lessons.r)
    there_Pc1 = (size_Pc1 > 0).float()
    wanted_PcD = lessons.generated * there_Pc1 / (size_Pc1 + 1e-12)
    off = (student.refined(x0_PcD, lessons.o) - wanted_PcD) * there_Pc1
    before = (x0_PcD - wanted_PcD) * there_Pc1
    return float(off.square().sum() / before.square().sum().clamp(min=1e-12))
