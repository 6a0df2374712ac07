"""A graph that breaks a promise of the bundle is not written."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from contract.bundle import Bundle
from contract.errors import LongsightError
from export.graph import ServedModel, write_graph
from export.parity import check_parity
from export.verify import Session
from tests.support.tiny import tiny_bundle
from training.calibration import Calibration
from training.models import CtrModel


class Toy(CtrModel):
    """Counts behaviours, badly in one way or another."""

    inputs = ("history_mask", "ad_price")
    history_length = 12

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        count_U1 = inputs["history_mask"].float().sum(-1, keepdim=True)
        return self.spoil(count_U1 + inputs["ad_price"])

    def spoil(self, logit_UN: Tensor) -> Tensor:
        return logit_UN


class MixesRequests(Toy):
    def spoil(self, logit_UN: Tensor) -> Tensor:
        return logit_UN - logit_UN.mean(0, keepdim=True)


class MixesCandidates(Toy):
    def spoil(self, logit_UN: Tensor) -> Tensor:
        return torch.log_softmax(logit_UN, dim=-1)


class RollsDice(Toy):
    def spoil(self, logit_UN: Tensor) -> Tensor:
        return logit_UN + torch.rand_like(logit_UN)


class Branches(Toy):
    def spoil(self, logit_UN: Tensor) -> Tensor:
        return logit_UN if bool(logit_UN.sum() > 0) else -logit_UN


class LooksAtValues(Toy):
    def spoil(self, logit_UN: Tensor) -> Tensor:
        return torch.cond(logit_UN.sum() > 0, torch.abs, torch.neg, (logit_UN,))


class CountsWhatItFinds(Toy):
    def spoil(self, logit_UN: Tensor) -> Tensor:
        found = torch.nonzero(logit_UN)
        return logit_UN + found.sum()


class FixesTheBatch(Toy):
    def spoil(self, logit_UN: Tensor) -> Tensor:
        return logit_UN + torch.zeros(2, 1)


@pytest.fixture(scope="module", name="bundle")
def _bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(tiny_bundle(tmp_path_factory.mktemp("bundle")))


def checked(model: CtrModel, bundle: Bundle, folder: Path) -> None:
    """Write the graph and compare it with torch on the bundle's golden requests."""
    from dataclasses import replace

    from export.parity import torch_logits

    served = ServedModel(model, Calibration(0.5, -1.0))
    write_graph(served, bundle.schema, folder)
    golden = [replace(request, logit=torch_logits(served, request.tensors)) for request in bundle.golden()]
    check_parity(Session(folder / "model.onnx"), golden, tolerance=1e-4)


def test_a_sound_toy_passes(bundle: Bundle, tmp_path: Path) -> None:
    checked(Toy(), bundle, tmp_path)


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (MixesRequests, "mixes requests or sees padding"),
        (MixesCandidates, "mixes requests or sees padding"),
        (RollsDice, "RandomUniform"),
        (Branches, "can't be written as ONNX"),
        (LooksAtValues, r"ai\.onnx\.If"),
        (CountsWhatItFinds, r"ai\.onnx\.NonZero"),
        (FixesTheBatch, "the graph fixes the shape of history_mask"),
    ],
)
def test_a_broken_promise_is_named(bundle: Bundle, tmp_path: Path, model: type[Toy], complaint: str) -> None:
    with pytest.raises(LongsightError, match=complaint) as failure:
        checked(model(), bundle, tmp_path)
    assert "\n" not in str(failure.value)
