"""How close a graph must be to torch, and a served bundle to its golden scores; and what a model that picks may do."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from contract.bundle import Bundle
from contract.errors import BundleError, LongsightError
from export.graph import ServedModel, write_graph
from export.parity import check_parity, routing_gaps, torch_logits
from export.verify import Session
from service.settings import RuntimeSettings
from service.wiring.assembly import verify
from tests.support.forgery import forge
from tests.support.tiny import tiny_bundle
from training.calibration import Calibration
from training.models import CtrModel

TOLERANCE = 1e-4


class Picks(CtrModel):
    """Scores by price, and by one more where the price is the higher of two."""

    inputs = ("ad_price", "history_mask")
    history_length = 12

    def forward(self, inputs: Mapping[str, Tensor], losses: object = None) -> Tensor:
        count_U1 = inputs["history_mask"].float().sum(-1, keepdim=True)
        return inputs["ad_price"] + count_U1 + (inputs["ad_price"] > 0.5).float()

    def routing_gaps(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return (inputs["ad_price"] - 0.5).abs()


class PicksNothing(Picks):
    """Says so."""

    routing_gaps = CtrModel.routing_gaps


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory: pytest.TempPathFactory):
    """Return a real graph and at least 1000 golden scores of torch."""
    folder = tmp_path_factory.mktemp("parity")
    bundle = Bundle.open(tiny_bundle(folder))
    served = ServedModel(Picks(), Calibration(0.5, -1.0))
    write_graph(served, bundle.schema, folder)
    golden = [replace(request, logit=torch_logits(served, request.tensors)) for request in bundle.golden()]
    golden *= -(-1000 // sum(len(request.logit) for request in golden))
    return served, Session(folder / "model.onnx"), golden


def _off(golden, places, by):
    """Return golden requests whose scores at these places of all are off, and gaps that are narrow there alone."""
    logit = np.concatenate([request.logit for request in golden])
    gap = np.ones_like(logit)
    logit[places] += np.float32(by)
    gap[places] = 1e-7
    ends = np.cumsum([len(request.logit) for request in golden])[:-1]
    changed = [
        replace(request, logit=part) for request, part in zip(golden, np.split(logit, ends), strict=True)
    ]
    return changed, np.split(gap, ends)


def _places(golden, share):
    total = sum(len(request.logit) for request in golden)
    return np.linspace(0, total - 1, round(total * share)).astype(int)


def test_gaps_are_asked_of_the_model_for_every_score(made):
    served, _, golden = made
    gaps = routing_gaps(served, golden)
    assert [gap.shape for gap in gaps] == [request.logit.shape for request in golden]
    np.testing.assert_allclose(gaps[5], np.abs(golden[5].tensors["ad_price"][0] - 0.5))
    plain = ServedModel(PicksNothing(), Calibration(1.0, 0.0))
    assert routing_gaps(plain, golden) is None


def test_a_sound_graph_passes_and_its_differences_are_told(made):
    _, session, golden = made
    parity = check_parity(session, golden, tolerance=TOLERANCE, gaps=_off(golden, [], 0)[1])
    assert parity.alone <= 1e-5
    assert parity.together_p99 <= parity.together <= 1e-5
    assert parity.turned_picks == 0


@pytest.mark.parametrize("by", [0.01, -0.049])
def test_one_score_of_a_thousand_may_hang_on_a_narrow_pick(made, by):
    _, session, golden = made
    changed, gaps = _off(golden, [700], by)
    parity = check_parity(session, changed, tolerance=TOLERANCE, gaps=gaps)
    assert parity.turned_picks == 1
    assert parity.alone == pytest.approx(abs(by), abs=1e-5)


def test_the_same_score_fails_where_no_pick_was_narrow(made):
    _, session, golden = made
    changed, gaps = _off(golden, [700], 0.01)
    wide = [np.maximum(gap, np.float32(2e-5)) for gap in gaps]
    with pytest.raises(
        LongsightError,
        match=r"golden request \d+ \(.+\): onnxruntime and torch differ by 0.01 .* where no pick hangs on "
        r"rounding \(nearest: a gap of 2e-05",
    ) as failure:
        check_parity(session, changed, tolerance=TOLERANCE, gaps=wide)
    assert "\n" not in str(failure.value)
    assert "nothing was written; export with" in str(failure.value)


def test_a_narrow_pick_elsewhere_excuses_nothing(made):
    _, session, golden = made
    changed, gaps = _off(golden, [700], 0.01)
    with pytest.raises(LongsightError, match="where no pick hangs on rounding"):
        check_parity(session, changed, tolerance=TOLERANCE, gaps=gaps[::-1])


@pytest.mark.parametrize("by", [0.0502, -3.0, np.nan, np.inf])
def test_no_pick_excuses_a_score_that_is_far_off(made, by):
    _, session, golden = made
    changed, gaps = _off(golden, [700], by)
    with pytest.raises(
        LongsightError, match=r"golden request \d+ .* more than 0.0001, for 1% of the scores 0.05"
    ):
        check_parity(session, changed, tolerance=TOLERANCE, gaps=gaps)


def test_two_percent_of_the_scores_are_too_many_whatever_they_hang_on(made):
    _, session, golden = made
    changed, gaps = _off(golden, _places(golden, 0.02), 1e-3)
    with pytest.raises(
        LongsightError, match=r"golden requests: \d+ of \d+ scores are more than 0.0001 apart"
    ):
        check_parity(session, changed, tolerance=TOLERANCE, gaps=gaps)
    fewer, gaps = _off(golden, _places(golden, 0.009), 1e-3)
    assert check_parity(session, fewer, tolerance=TOLERANCE, gaps=gaps).turned_picks > 5


def test_a_model_that_picks_nothing_may_have_none_at_all(made):
    _, session, golden = made
    with pytest.raises(
        LongsightError, match=r"onnxruntime and torch differ by 0.001 in log-odds, more than 0.0001;"
    ):
        check_parity(session, _off(golden, [700], 1e-3)[0], tolerance=TOLERANCE)


class _Unsteady:
    """A graph whose scores in company are off at some places."""

    def __init__(self, session, off):
        self._session, self._off = session, off
        self.logits = session.logits

    def run(self, tensors):
        found = self._session.run(tensors)
        return {"logit": found["logit"] + self._off}


def test_company_is_held_to_the_same(made):
    _, session, golden = made
    narrow = [np.zeros_like(request.logit) for request in golden]
    with pytest.raises(LongsightError, match=r"mixes requests or sees padding, more than 0.0001"):
        check_parity(_Unsteady(session, np.float32(1e-3)), golden, tolerance=TOLERANCE)
    with pytest.raises(LongsightError, match=r"golden requests: (\d+) of \1 scores"):
        check_parity(_Unsteady(session, np.float32(1e-3)), golden, tolerance=TOLERANCE, gaps=narrow)
    with pytest.raises(LongsightError, match=r"more than 0.0001, for 1% of the scores 0.05"):
        check_parity(_Unsteady(session, np.float32(0.1)), golden, tolerance=TOLERANCE, gaps=narrow)


# ---------------------------------------------------------------- what a service that loads a bundle holds it to


@pytest.mark.parametrize(
    ("picks", "share", "by", "holds"),
    [
        (True, 0.002, 0.01, True),
        (False, 0.002, 0.01, False),
        (True, 0.02, 1e-3, False),
        (True, 0.002, 0.06, False),
    ],
    ids=["few and near", "of a model that picks nothing", "too many", "too far"],
)
def test_a_served_bundle_may_differ_as_its_manifest_says(tmp_path: Path, picks, share, by, holds):
    folder = tiny_bundle(tmp_path)
    scores = np.load(folder / "golden" / "scores.npy")
    scores[np.linspace(0, len(scores) - 1, max(1, round(len(scores) * share))).astype(int)] += np.float32(by)
    np.save(folder / "golden" / "scores.npy", scores)
    forge(folder, lambda manifest: manifest.update(hard_routing=picks))
    if holds:
        assert verify(folder, RuntimeSettings()).largest_difference == pytest.approx(by, abs=1e-4)
        return
    with pytest.raises(
        BundleError, match=r"model\.onnx: golden request \d+ \(.+\): log-odds differ by"
    ) as failure:
        verify(folder, RuntimeSettings())
    assert "\n" not in str(failure.value)
    assert "more than the tolerance 0.0001" in str(failure.value)
    assert "export it again" in str(failure.value)
