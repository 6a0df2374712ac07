"""A bundle of reduced precision is proven against fp32 and stands behind a gate."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cli.main import run as cli
from contract.bundle import Bundle, show
from contract.errors import LongsightError
from contract.manifest import Manifest
from export.exporter import export
from export.graph import ServedModel, graph_inputs
from export.reduction import Reduction, reduce, require_quality
from export.verify import Session
from service.settings import RuntimeSettings
from service.wiring.assembly import verify
from service.wiring.explained import open_explained
from tests.support.forgery import forge
from tests.support.tiny import tiny_bundle, tiny_run
from training.batches import BatchSource
from training.run import Run
from training.scored import score_split

JUDGED = {
    "split": "test",
    "rows": 900,
    "users": 30,
    "gauc_difference": 0.0,
    "gauc_low": -0.001,
    "gauc_high": 0.001,
}


@pytest.fixture(scope="module", name="half")
def _half(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path, dict]:
    """A run of TIN, its bundle of fp16, and what export told."""
    home = tmp_path_factory.mktemp("half")
    run = tiny_run(home)
    told = export(run, home / "bundle", precision="fp16")
    return Run.load(run), home / "bundle", told


def quiet(_done: int, _total: int | None, _label: str) -> None:
    """Report nothing."""


def near_2048(run: Path, offset: float, *, a: float, b: float) -> None:
    """Let the log-odds of popularity be 2,048 and more, where float16 knows even numbers only.

    They are 2,048 + 2 x their rank + `offset`, and calibrated with a and b.
    """
    weights = torch.load(run / "checkpoint.pt", weights_only=True)
    rank = weights["log_odds"].argsort().argsort()
    weights["log_odds"] = 2048 + 2.0 * rank + offset
    torch.save(weights, run / "checkpoint.pt")
    record = json.loads((run / "run.json").read_text())
    record["calibration"] = {"a": a, "b": b - a * 2048}
    (run / "run.json").write_text(json.dumps(record))


def crowd(run: Path) -> None:
    """Let the log-odds of popularity lie so close around 2,048 that float16 tells none from another."""
    near_2048(run, 0.0, a=1.0, b=-1.0)
    weights = torch.load(run / "checkpoint.pt", weights_only=True)
    weights["log_odds"] = 2048 + (weights["log_odds"] - 2048) / 100
    torch.save(weights, run / "checkpoint.pt")


# ---------------------------------------------------------------- what comes out


def test_export_tells_what_is_smaller_and_what_it_costs(half: tuple[Run, Path, dict]) -> None:
    _, bundle, told = half
    found = told["reduction"]
    assert told["precision"] == "fp16"
    assert told["bytes"] == sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    assert found["table_bytes"] * 2 == found["fp32_table_bytes"] > 0
    assert found["gauc_low"] <= found["gauc_difference"] <= found["gauc_high"]
    assert found["pcoc_difference"] == pytest.approx(found["fp16"]["pcoc"] - found["fp32"]["pcoc"])
    assert found["split"] == "test"
    assert told["fp32_difference"] > 1e-4  # it is really another graph
    assert told["fp32_weight_difference"] > 0


def test_the_manifest_says_what_the_bundle_is(half: tuple[Run, Path, dict]) -> None:
    run, bundle, told = half
    manifest = Manifest.read(bundle)
    assert (manifest.precision, manifest.tolerance) == ("fp16", 2 * told["fp32_difference"])
    assert manifest.metrics["reduction"] == told["reduction"]
    assert manifest.metrics["validation"] == json.loads(json.dumps(run.metrics["validation"]))
    assert manifest.farthest == pytest.approx(told["reduction"]["log_odds_difference"]["max"] + 1e-4)
    assert show(bundle)["farthest"] == manifest.farthest
    assert sorted(path.name for path in bundle.iterdir()) == [
        "explain.onnx",
        "golden",
        "manifest.json",
        "model.onnx",
        "model.onnx.data",
        "vocabularies",
    ]


def test_a_service_takes_it_and_holds_it_to_its_tolerance(
    half: tuple[Run, Path, dict], tmp_path: Path
) -> None:
    _, bundle, told = half
    verified = verify(bundle, RuntimeSettings())
    assert verified.largest_difference == pytest.approx(told["fp32_difference"])
    assert open_explained(verified.bundle, RuntimeSettings())
    strict = tmp_path / "strict"
    shutil.copytree(bundle, strict)
    forge(strict, lambda manifest: manifest.update(tolerance=1e-4))
    with pytest.raises(LongsightError, match=r"more than the tolerance 0\.0001"):
        verify(strict, RuntimeSettings())


def test_every_score_of_the_test_split_is_as_near_as_the_manifest_says(half: tuple[Run, Path, dict]) -> None:
    run, bundle, _ = half
    dataset, session = run.dataset(), Session(bundle / "model.onnx")
    chosen = dataset.requests_of("test")
    scored = score_split(run, dataset, chosen)
    offline = dict(zip(scored.row.tolist(), scored.logit.tolist(), strict=True))
    source = BatchSource(dataset, run.encoder, run.model.inputs)
    differences = []
    for request in chosen:
        batch = source.batch(np.array([request]), serving=True)
        logit_N = session.logits(batch.tensors)[0]
        differences += [abs(logit_N[i] - offline[row]) for i, row in enumerate(batch.row[0].tolist())]
    assert Manifest.read(bundle).closeness.holds(np.array(differences))
    assert max(differences) > 1e-4


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("model", ["tin", "diffumin", "mean_pool", "popularity"])
def test_every_model_has_a_smaller_form(
    tmp_path: Path, model: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "training.verdict.WORST_GAUC", -0.5
    )  # 23 users and random weights: int8 turns a few pairs
    made = smaller(tmp_path, model, precision)
    assert made.precision == precision
    assert made.alone > 0
    assert made.tolerance >= 1e-4
    assert (made.weights is None) == (model == "popularity")
    assert made.report["table_bytes"] < made.report["fp32_table_bytes"]
    assert not (tmp_path / f"bundle-{model}" / "fp32").exists()


def smaller(tmp_path: Path, model: str, precision: str) -> Reduction:
    """Reduce the finished bundle of a tiny run."""
    folder, run = tiny_bundle(tmp_path, model), Run.load(tiny_run(tmp_path, model))
    bundle = Bundle.open(folder)
    served = ServedModel(run.model, run.calibration)
    return reduce(
        folder,
        run,
        bundle.golden(),
        specs=graph_inputs(served, run.schema),
        precision=precision,
        hard_routing=bundle.manifest.hard_routing,
        report=quiet,
    )


# ---------------------------------------------------------------- the gate


def test_scores_that_float16_can_not_tell_apart_are_refused_and_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run(tmp_path, "popularity")
    crowd(run)
    export(run, tmp_path / "plain")
    old = tiny_bundle(tmp_path, "popularity")
    version = Manifest.read(old).version
    before = sorted(path.name for path in tmp_path.iterdir())
    for target in (tmp_path / "new", old):
        assert cli(["export", str(run), str(target), "--precision", "fp16"]) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: --precision fp16: on the test split GAUC changes by -0.")
        assert "95 % interval [-0." in error
        assert error.endswith("which is not above -0.002; nothing was written; export with --precision fp32")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert Manifest.read(old).version == version


def test_scores_that_are_all_rounded_one_way_are_refused_though_none_changes_its_place(
    tmp_path: Path,
) -> None:
    run = tiny_run(tmp_path, "popularity")
    near_2048(run, 0.9, a=0.1, b=-4.0)
    with pytest.raises(LongsightError, match=r"on the test split PCOC moves by -0\.\d+, more than 0\.01"):
        export(run, tmp_path / "bundle", precision="fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["run-popularity"]


def test_a_table_that_float16_can_not_hold_is_refused(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, "popularity")
    near_2048(run, 70_000.0, a=1e-3, b=0.0)
    with pytest.raises(LongsightError, match=r"holds a number of magnitude 7.*, float16 ends at 65504"):
        export(run, tmp_path / "bundle", precision="fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["run-popularity"]


def test_ctrl_c_at_the_gate_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(_done: int, _total: int | None, label: str) -> None:
        if label == "scoring in fp16":
            raise KeyboardInterrupt

    run = tiny_run(tmp_path, "popularity")
    with pytest.raises(KeyboardInterrupt):
        export(run, tmp_path / "bundle", precision="fp16", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["run-popularity"]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"gauc_low": None, "close": False}, "GAUC has no interval"),
        ({"gauc_low": -0.0021, "close": False}, "GAUC changes by"),
        ({"pcoc_difference": 0.011}, "PCOC moves by .0.0110, more than 0.01"),
        ({"pcoc_difference": None}, "PCOC is not defined"),
    ],
)
def test_what_the_gate_refuses(found: dict, said: str) -> None:
    good = {**JUDGED, "close": True, "pcoc_difference": -0.009}
    require_quality(good, "int8")
    with pytest.raises(LongsightError, match=f"--precision int8: on the test split .*{said}") as refusal:
        require_quality({**good, **found}, "int8")
    assert "export with --precision fp32" in str(refusal.value)
