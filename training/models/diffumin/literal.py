"""Noise of the paper's own sampler, for comparison with ours.

Algorithm 2 noises a clean interest to a level drawn from the whole schedule, then takes the T' lowest of its
1000 steps, each with fresh noise, as if it had been noised to level T'. Little of that noise can be undone, so
most of the result is noise. What the network says is taken as noise whatever it learned: with eps that is the
paper, with x0 the code its authors released.

A graph holds no random operator and equal requests shall have equal scores, so outside of training the draws
are constants: one for each channel, saved with the weights.

P pairs, c channels, D width, S steps.
"""

from typing import Final

import torch
from torch import Tensor, nn

from training.models.diffumin.config import DiffuminConfig
from training.models.diffumin.schedule import LEVELS, Schedule

SEED: Final = 2508_15311


class LiteralNoise(nn.Module):
    """The draws of Algorithm 2: where a channel starts, and what each step adds."""

    level: Tensor
    """`[c]` int64, in 1..T."""
    start_noise: Tensor
    """`[c, D]`"""
    step_noise: Tensor
    """`[S, c, D]`"""

    def __init__(self, config: DiffuminConfig, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule
        shape = (config.channels, config.embedding_width)
        steps = max(config.diffusion_steps, config.training_steps)
        generator = torch.Generator().manual_seed(SEED)
        level_c = torch.randint(1, LEVELS + 1, shape[:1], generator=generator)
        self.register_buffer("level", level_c)
        self.register_buffer("start_noise", torch.randn(shape, generator=generator))
        self.register_buffer("step_noise", torch.randn(steps, *shape, generator=generator))

    def start(self, x0_PcD: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return what the sampler starts from: drawn from `generator`, or at the constants for None."""
        if generator is None:
            return self.schedule.at(x0_PcD, self.level, self.start_noise)
        return self.schedule.perturb(x0_PcD, generator).x

    def of_step(self, place: int, like_PcD: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return standard normal noise for a step, counted from 0, that broadcasts to `like_PcD`."""
        if generator is None:
            return self.step_noise[place]
        return torch.randn(like_PcD.shape, generator=generator).to(like_PcD.device)
