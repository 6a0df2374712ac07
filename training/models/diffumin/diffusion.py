"""The diffusion that generates a further interest for each channel, and how it is trained.

A clean interest r is scaled to x0 = sqrt(D) r / |r|, so that its coordinates have the variance of the noise;
what is generated is scaled back. A channel without behaviours (r = 0) generates 0.

Sampling is deterministic: DDIM (Song et al., Denoising Diffusion Implicit Models, 2021, eta = 0) from
`x = signal[t0] x0`, with noise 0, down to level 0. So a graph holds no random operator, and equal requests have
equal scores. `literal.py` is the paper's own sampler.

P pairs, c channels, D width, R = P c passes of the network.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn

from training.models.diffumin.config import DiffuminConfig
from training.models.diffumin.denoiser import Denoiser
from training.models.diffumin.literal import LiteralNoise
from training.models.diffumin.schedule import Schedule, Step

EMPTY: Final = 1e-12
"""Where the square of an interest's norm is not above, its channel counts as empty."""


class Diffusion(nn.Module):
    """Generates interests from interests, conditioned on the channels."""

    def __init__(self, config: DiffuminConfig) -> None:
        super().__init__()
        self.parametrisation = config.parametrisation
        self.start_level = config.start_level
        self.schedule = Schedule.named(config.schedule)
        self.denoiser = Denoiser(config)
        self.literal = LiteralNoise(config, self.schedule) if config.paper_literal else None
        # The paper says nothing of a scale; the code its authors released has vectors of norm 1.
        self.norm = 1.0 if config.paper_literal else math.sqrt(config.embedding_width)
        self.scoring = self._steps(config.diffusion_steps)
        self.training_steps = self._steps(config.training_steps)

    def forward(self, r_PcD: Tensor, o_PcD: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return generated interests, of the shape of `r_PcD` and float32; gradients run through all steps.

        Takes `training_steps` steps in training, `diffusion_steps` otherwise.

        Args:
            r_PcD: interests, `[..., c, D]`; rows of zeros are empty channels and generate zeros.
            o_PcD: channels of the ads, of the same shape.
            generator: on the host; draws the noise of `paper_literal` in training, where None stands for the
                constants used outside of it. Nothing else is random.

        """
        x0_PcD, size_Pc1 = unit_interests(r_PcD.flatten(0, -3), self.norm)
        context = self.denoiser.prepare(x0_PcD, o_PcD.flatten(0, -3).float())
        steps = self.training_steps if self.training else self.scoring
        draws = generator if self.training else None
        if self.literal is None:
            x_PcD = x0_PcD * float(self.schedule.signal[self.start_level])
        else:
            x_PcD = self.literal.start(x0_PcD, draws)
        for place, step in enumerate(steps):
            level_1 = torch.full((1,), step.level, dtype=torch.int64, device=x_PcD.device)
            found_PcD = self.denoiser(x_PcD.flatten(0, 1), level_1, context).float().view(x_PcD.shape)
            x_PcD = step.keep * x_PcD + step.use * found_PcD
            if self.literal is not None and step.noise:
                x_PcD = x_PcD + step.noise * self.literal.of_step(place, x_PcD, draws)
        return (x_PcD * size_Pc1).view(r_PcD.shape)

    def loss(self, r_PcD: Tensor, o_PcD: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the network, a scalar: over all coordinates of non-empty channels.

        Each channel of each pair is noised to a level drawn evenly from 1..T.

        Args:
            r_PcD: interests, `[..., c, D]`; detach them lest they learn to be easy to guess.
            o_PcD: channels of the ads, of the same shape.
            generator: draws levels and noise, on the host.

        """
        x0_PcD, size_Pc1 = unit_interests(r_PcD.flatten(0, -3), self.norm)
        context = self.denoiser.prepare(x0_PcD, o_PcD.flatten(0, -3).float())
        drawn = self.schedule.perturb(x0_PcD, generator)
        found_RD = self.denoiser(drawn.x.flatten(0, 1), drawn.level.flatten(), context)
        wanted_PcD = x0_PcD if self.parametrisation == "x0" else drawn.noise
        error_PcD = (found_RD.float().view(x0_PcD.shape) - wanted_PcD).square()
        filled_Pc1 = (size_Pc1 > 0).float()
        total: Tensor = (error_PcD.mean(-1, keepdim=True) * filled_Pc1).sum()
        return total / filled_Pc1.sum().clamp(min=1.0)

    def _steps(self, steps: int) -> tuple[Step, ...]:
        if self.literal is not None:
            return self.schedule.ddpm(steps=steps)
        return self.schedule.ddim(self.parametrisation, start=self.start_level, steps=steps)


def unit_interests(r_PcD: Tensor, norm: float) -> tuple[Tensor, Tensor]:
    """Return interests of one norm, and what times them gives the interests back, `[..., 1]`; in float32.

    An empty channel has zeros for both, and no gradient.
    """
    r_PcD = r_PcD.float()
    square_Pc1 = r_PcD.square().sum(-1, keepdim=True)
    filled_Pc1 = (square_Pc1 > EMPTY).float()
    length_Pc1 = square_Pc1.clamp(min=EMPTY).sqrt()
    return r_PcD * (norm * filled_Pc1 / length_Pc1), length_Pc1 * filled_Pc1 / norm
