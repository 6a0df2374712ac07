"""Activations, among them Dice with statistics over valid positions only.

H units; `...` any leading shape.
"""

import torch
from torch import Tensor, nn

from training.models.base import require

ACTIVATIONS = ("dice", "prelu", "relu", "sigmoid")


class Dice(nn.Module):
    """Dice(x) = p x + (1 - p) alpha x with p = sigmoid((x - E[x]) / sqrt(Var[x] + eps)), per unit.

    Zhou et al., Deep Interest Network, KDD 2018, section 5.3. In training E and Var are those of the valid
    positions of the batch, so padding changes nothing; in evaluation they are running means.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, width: int, *, momentum: float = 0.01, eps: float = 1e-5) -> None:
        super().__init__()
        self.alpha_H = nn.Parameter(torch.zeros(width))
        self.momentum = momentum
        self.eps = eps
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_variance", torch.ones(width))

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return the activation of `x [..., H]`; `valid [...]` (broadcastable bool) tells what counts."""
        mean_H, variance_H = (
            self._statistics(x, valid) if self.training else (self.running_mean, self.running_variance)
        )
        gate = torch.sigmoid((x - mean_H) * torch.rsqrt(variance_H + self.eps))
        return x * (self.alpha_H + gate * (1 - self.alpha_H))

    def _statistics(self, x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        x = x.float()  # under autocast too: bfloat16 can't add up thousands of positions
        axes = tuple(range(x.dim() - 1))
        weight = torch.ones_like(x[..., :1]) if valid is None else valid.unsqueeze(-1).to(x.dtype)
        weight = weight.expand(*x.shape[:-1], 1)
        # A batch without one valid position has no statistics: 0 / 1 rather than 0 / 0.
        count = weight.sum().clamp(min=1.0)
        mean_H = (x * weight).sum(axes) / count
        variance_H = ((x - mean_H).square() * weight).sum(axes) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean_H, self.momentum)
            self.running_variance.lerp_(variance_H, self.momentum)
        return mean_H, variance_H


class Activation(nn.Module):
    """One of `ACTIVATIONS` by name, with the one call signature of Dice."""

    def __init__(self, name: str, width: int) -> None:
        super().__init__()
        require(name in ACTIVATIONS, f"activation {name!r} is unknown; known: {', '.join(ACTIVATIONS)}")
        self.name = name
        self.dice = Dice(width) if name == "dice" else None
        self.prelu = nn.PReLU(width) if name == "prelu" else None

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return the activation of `x [..., H]`; only Dice looks at `valid [...]`."""
        if self.dice is not None:
            activated: Tensor = self.dice(x, valid)
            return activated
        if self.prelu is not None and torch.compiler.is_exporting():
            # onnxruntime takes 2.4 times as long for its own PReLU; the same numbers, for one of the summands is 0
            positive = x.relu()
            return positive + self.prelu.weight * (x - positive)
        if self.prelu is not None:
            # torch takes axis 1 for the units
            return nn.functional.prelu(x.flatten(0, -2), self.prelu.weight).view(x.shape)
        # Not in place: x is a view of a matrix product, and autograd would copy it whole to undo that.
        return x.relu() if self.name == "relu" else x.sigmoid()
