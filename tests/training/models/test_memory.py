"""No layer holds a vector for every pair of candidate and behaviour, forward or backward, but DIN's own units."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode


class _LargestTensor(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


SMALL = {"diffusion": False, "channels": 2, "head_hidden": (40, 20)}


@pytest.mark.parametrize(
    ("name", "config", "units"),
    [
        ("tin", {}, 1),
        ("din", {"attention_hidden": (5,)}, 5),
        # a score per channel, and a small head, whose own weights would be the largest tensor
        ("diffumin", {**SMALL, "short_term_length": 5}, 2),
        ("diffumin", {**SMALL, "short_term": "none", "aggregation": "count"}, 2),
    ],
)
def test_what_is_kept_per_candidate_and_behaviour(build, draw, name, config, units):
    model = build(name, **config).train()
    inputs = draw([12] * 2, 30)
    with _LargestTensor() as largest:
        model(inputs).sum().backward()

    # the width is 8: [U, N, L, D] would be 2 * 30 * 12 * 8, the paper's concatenation four times that
    assert largest.size <= max(2 * 30 * 12 * units, 2 * 30 * 80)
