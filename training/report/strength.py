"""How strongly a model ties a behaviour to a candidate: what it learned, to be drawn beside what the log shows.

TIN (Zhou et al., WWW 2024): exp(z) ||k~ * q~||_2 with z the attention logit. The norm needs no [N, L, D]
tensor: ||k * q||^2 = sum_d k_d^2 q_d^2 is one matrix product of squares. DIN: |w| ||k||_2 with w the
activation weight. Other models weigh all behaviours alike, or read none.

N candidate ads, L behaviours, D width of an ad or behaviour vector.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.models import CtrModel
from training.models.din import Din
from training.models.masking import HistoryMask
from training.models.tin import Tin

Floats = NDArray[np.float64]

_TINY: Final = 1e-12


@dataclass(frozen=True)
class Strength:
    """How a model's strength is measured and averaged."""

    of: Callable[[Mapping[str, Tensor]], Floats]
    """From the tensors of one request to `[N, L]`: the strength, or its logarithm."""
    logarithmic: bool
    """Strengths span powers of ten, and a few would make up any mean: typical ones are compared."""
    formula: str

    def relative(self, mean: Floats, usual: float) -> Floats:
        """Return means over pairs, as multiples of the mean over all pairs."""
        return np.exp(mean - usual) if self.logarithmic else mean / usual


def strength_of(model: CtrModel) -> Strength | str:
    """Return what measures a model's learned correlation, or why there is nothing to measure."""
    if isinstance(model, Tin):
        tin = model
        formula = "exp(attention logit) x length of (behaviour * ad), geometric mean"
        return Strength(lambda inputs: _tin(tin, inputs), logarithmic=True, formula=formula)
    if isinstance(model, Din):
        din = model
        formula = "|activation weight| x length of the behaviour vector, mean"
        return Strength(lambda inputs: _din(din, inputs), logarithmic=False, formula=formula)
    if any(name.startswith("history_") for name in model.inputs):
        return "this model weighs every behaviour alike, so there is nothing to draw beside the log"
    return "this model reads no history, so there is nothing to draw beside the log"


def _tin(model: Tin, inputs: Mapping[str, Tensor]) -> Floats:
    with torch.inference_mode():
        q_UND = model.time.target(model.embedding.ads(inputs))
        k_ULD = model.time.behaviors(model.embedding.history(inputs), inputs)
        shape_UND = torch.square(q_UND) if model.config.target_representation else torch.ones_like(q_UND)
        norm_UNL = torch.bmm(shape_UND, torch.square(k_ULD).transpose(1, 2)).sqrt()
        strength_UNL = norm_UNL.clamp(min=_TINY).log()
        if model.config.target_attention:
            mask = HistoryMask.of(inputs["history_mask"])
            strength_UNL = strength_UNL + model.attention_logits(q_UND, k_ULD, mask)
        strength: Floats = strength_UNL[0].double().numpy()
        return strength


def _din(model: Din, inputs: Mapping[str, Tensor]) -> Floats:
    with torch.inference_mode():
        k_ULD = model.embedding.history(inputs)
        weight_ULN = model.attention(model.embedding.ads(inputs), k_ULD, inputs, None)
        strength_UNL = weight_ULN.abs().transpose(1, 2) * k_ULD.norm(dim=-1).unsqueeze(1)
        strength: Floats = strength_UNL[0].double().numpy()
        return strength
