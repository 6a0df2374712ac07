"""DiffuMIN: several interests per candidate ad, found by routing and refined by diffusion."""

from training.models.diffumin.config import DiffuminConfig
from training.models.diffumin.model import Diffumin

__all__ = ["Diffumin", "DiffuminConfig"]
