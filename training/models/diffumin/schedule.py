"""Noise schedules: how much of a clean vector is left at each of 1000 levels, and the steps back to level 0.

Level 0 is clean. At level t a vector is `signal[t] x0 + noise[t] e`, e standard normal, with
`signal[t]^2 = prod_{s <= t} (1 - beta[s])` and `signal^2 + noise^2 = 1`. Every step of every sampler here is
linear in the vector, what the network says of it, and fresh noise.

P pairs, c channels, D width.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEVELS: Final = 1000
"""T, the number of noise levels above 0."""
FIRST_BETA: Final = 1e-4
LAST_BETA: Final = 0.02
COSINE_OFFSET: Final = 0.008
HIGHEST_BETA: Final = 0.999
"""Of the cosine schedule: its last level would be noise without any signal, from which nothing leads back."""


@dataclass(frozen=True)
class Step:
    """`x <- keep x + use f(x, level) + noise e`, with f the network and e standard normal."""

    level: int
    keep: float
    use: float
    noise: float = 0.0


@dataclass(frozen=True)
class Perturbed:
    """Vectors at levels drawn at random."""

    x: Tensor
    """`[P, c, D]`"""
    level: Tensor
    """`[P, c]` int64, in 1..T."""
    noise: Tensor
    """`[P, c, D]`, the standard normal part of `x`."""


@dataclass(frozen=True)
class Schedule:
    """Constants by level 0 ... T, float64."""

    beta: NDArray[np.float64]
    """`[T + 1]` share of the variance that a level replaces by noise; `beta[0]` = 0."""
    signal: NDArray[np.float64]
    """`[T + 1]` factor of the clean vector, falling from 1."""
    noise: NDArray[np.float64]
    """`[T + 1]` factor of the noise, rising from 0."""

    @classmethod
    def named(cls, name: str) -> Self:
        """Return the schedule `linear` (beta from 1e-4 to .02) or `cosine` (Nichol and Dhariwal, 2021)."""
        assert name in {"linear", "cosine"}
        beta = np.concatenate([[0.0], _linear() if name == "linear" else _cosine()])
        kept = np.cumprod(1 - beta)
        return cls(beta, np.sqrt(kept), np.sqrt(1 - kept))

    def at(self, x0_PcD: Tensor, level: Tensor, noise_PcD: Tensor) -> Tensor:
        """Return `x0_PcD` at the given levels, `[P, c]` or `[c]`."""
        signal, noise = (
            torch.tensor(factors, dtype=x0_PcD.dtype, device=level.device)[level].to(x0_PcD.device)
            for factors in (self.signal.tolist(), self.noise.tolist())
        )
        return signal.unsqueeze(-1) * x0_PcD + noise.unsqueeze(-1) * noise_PcD

    def perturb(self, x0_PcD: Tensor, generator: torch.Generator) -> Perturbed:
        """Return `x0_PcD` at levels drawn evenly from 1..T, for each channel its own; drawn on the host."""
        level_Pc = torch.randint(1, LEVELS + 1, x0_PcD.shape[:-1], generator=generator)
        noise_PcD = torch.randn(x0_PcD.shape, generator=generator).to(x0_PcD.device)
        return Perturbed(self.at(x0_PcD, level_Pc, noise_PcD), level_Pc.to(x0_PcD.device), noise_PcD)

    def ddim(self, parametrisation: str, *, start: int, steps: int) -> tuple[Step, ...]:
        """Return deterministic steps (eta = 0) from level `start` to 0.

        Args:
            parametrisation: what the network estimates, x0 or eps.
            start: t0, in 1..T.
            steps: T', in 1..start.

        """
        chosen = []
        for level, lower in pairwise(ddim_levels(start, steps)):
            keep = self.signal[lower] / self.signal[level]
            use = self.noise[lower] - self.noise[level] * keep
            if parametrisation == "x0":  # the noise is (x - signal x0) / noise
                per_noise = use / self.noise[level]
                keep, use = keep + per_noise, -per_noise * self.signal[level]
            chosen.append(Step(level, float(keep), float(use)))
        return tuple(chosen)

    def ddpm(self, *, steps: int) -> tuple[Step, ...]:
        """Return the lowest `steps` steps for a network that estimates the noise.

        Each adds noise sqrt(beta) of its own, but the last.
        """
        chosen = []
        for level in range(steps, 0, -1):
            keep = 1 / math.sqrt(1 - self.beta[level])
            use = -keep * self.beta[level] / self.noise[level]
            chosen.append(Step(level, keep, float(use), math.sqrt(self.beta[level]) if level > 1 else 0.0))
        return tuple(chosen)


def ddim_levels(start: int, steps: int) -> tuple[int, ...]:
    """Return `steps + 1` levels from `start` down to 0, as evenly spaced as whole numbers are."""
    assert 1 <= steps <= start <= LEVELS
    return tuple((2 * start * (steps - done) + steps) // (2 * steps) for done in range(steps + 1))


def _linear() -> NDArray[np.float64]:
    return np.linspace(FIRST_BETA, LAST_BETA, LEVELS)


def _cosine() -> NDArray[np.float64]:
    angle = (np.arange(LEVELS + 1) / LEVELS + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2
    kept = np.cos(angle) ** 2
    beta: NDArray[np.float64] = np.minimum(1 - kept[1:] / kept[:-1], HIGHEST_BETA)
    return beta
