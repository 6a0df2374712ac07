"""A run becomes a bundle that scores like the model, or nothing at all."""

import json
import shutil
import signal
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import torch

from contract.bundle import Bundle
from contract.errors import BundleError, DatasetError, InputError, LongsightError, RunError
from export import exporter
from export.exporter import export
from export.graph import ServedModel, write_graph
from export.verify import Session
from service.settings import RuntimeSettings
from service.wiring.assembly import Verified, verify
from tests.support.forgery import forge
from tests.support.tiny import tiny_bundle, tiny_run
from training.batches import BatchSource
from training.calibration import Calibration
from training.run import Run
from training.scoring import score_requests

ROOT = Path(__file__).parents[2]
MODELS = ["tin", "din", "diffumin", "mean_pool", "popularity"]


@pytest.fixture(scope="module", params=MODELS, name="pair")
def _pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Bundle]:
    home = tmp_path_factory.mktemp(request.param)
    bundle = tiny_bundle(home, request.param)
    return Run.load(tiny_run(home, request.param)), Bundle.open(bundle)


def verified_bundle(path: Path) -> Verified:
    return verify(path, RuntimeSettings())


# ---------------------------------------------------------------- what comes out


def test_every_model_exports_and_verifies(pair: tuple[Run, Bundle]) -> None:
    run, bundle = pair
    verified = verified_bundle(bundle.path)
    assert verified.golden_requests >= 32
    assert verified.largest_difference <= 1e-4
    assert bundle.input_names == run.model.inputs
    assert bundle.manifest.name == run.model_name
    assert bundle.manifest.metrics == json.loads(json.dumps(run.metrics))


def test_the_graph_scores_the_test_split_as_offline_scoring_does(pair: tuple[Run, Bundle]) -> None:
    run, bundle = pair
    dataset, session = run.dataset(), Session(bundle.graph_path)
    source = BatchSource(dataset, run.encoder, run.model.inputs)
    chosen = dataset.requests_of("test")
    rows, raw = score_requests(run.model, source, chosen)
    offline = dict(zip(rows.tolist(), run.calibration.apply(raw), strict=True))
    for request in chosen:
        batch = source.batch(np.array([request]), serving=True)
        logits = session.logits(batch.tensors)[0]
        expected = np.array([offline[row] for row in batch.row[0].tolist()])
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_logged_golden_requests_have_the_tensors_that_training_scores(pair: tuple[Run, Bundle]) -> None:
    run, bundle = pair
    dataset = run.dataset()
    source = BatchSource(dataset, run.encoder, run.model.inputs)
    found = 0
    by_time = {int(row["timestamp"]): index for index, row in enumerate(dataset.requests)}
    for golden in bundle.golden():
        if golden.about == "a logged request":
            index = by_time[golden.raw.timestamp]
            batch = source.batch(np.array([index]), serving=True)
            assert all((golden.tensors[name] == tensor).all() for name, tensor in batch.tensors.items())
            found += 1
    assert found == 24


def test_probability_is_the_sigmoid_of_the_logit(pair: tuple[Run, Bundle]) -> None:
    _, bundle = pair
    outputs = Session(bundle.graph_path).run(bundle.golden()[0].tensors)
    logit_UN = outputs["logit"].astype(np.float64)
    # absolute: onnxruntime's sigmoid is coarse far out, so what is served comes from the logit
    np.testing.assert_allclose(outputs["probability"], 1 / (1 + np.exp(-logit_UN)), atol=1e-6)


def test_a_score_does_not_depend_on_its_company(pair: tuple[Run, Bundle]) -> None:
    _, bundle = pair
    session = Session(bundle.graph_path)
    request = next(r for r in bundle.golden() if r.about == "many candidates")
    logit_N = session.logits(request.tensors)[0]
    order = np.random.default_rng(0).permutation(len(logit_N))
    columns = {name for name in request.tensors if name.startswith(("ad_", "context_"))}

    def part(index: np.ndarray) -> np.ndarray:
        cut = {n: t[:, index] if n in columns else t for n, t in request.tensors.items()}
        return session.logits(cut)[0]

    np.testing.assert_allclose(part(order), logit_N[order], rtol=0, atol=1e-5)
    chunks = [part(index) for index in np.array_split(np.arange(len(logit_N)), 7)]
    np.testing.assert_allclose(np.concatenate(chunks), logit_N, rtol=0, atol=1e-5)
    padded = {
        name: np.pad(tensor, [(0, 0), (5, 0)]) if name.startswith("history_") else tensor
        for name, tensor in next(r for r in bundle.golden() if r.about == "one event").tensors.items()
    }
    alone = next(r for r in bundle.golden() if r.about == "one event").tensors
    np.testing.assert_allclose(session.logits(padded), session.logits(alone), rtol=0, atol=1e-5)


def test_the_weights_lie_outside_the_graph(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    run = Run.load(tiny_run(tmp_path))
    parameters = sum(p.numel() for p in run.model.parameters())
    assert (bundle / "model.onnx.data").stat().st_size >= 4 * parameters * 0.95
    assert (bundle / "model.onnx").stat().st_size < 20_000


@pytest.mark.parametrize("model", MODELS)
def test_no_path_of_this_machine_is_in_a_bundle(tmp_path: Path, model: str) -> None:
    bundle = tiny_bundle(tmp_path, model)
    places = [str(ROOT), sys.prefix, str(Path.home()), "site-packages", "/training/", "/tmp/"]
    for file in (f for f in bundle.rglob("*") if f.is_file()):
        content = file.read_bytes()
        assert not [place for place in places if place.encode() in content], file


def test_the_version_is_the_time_in_utc_and_a_hash_of_the_content(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, "popularity")
    noon = datetime(2026, 11, 23, 12, tzinfo=timezone(timedelta(hours=2)))
    version = export(run, tmp_path / "bundle", now=noon)["version"]
    other = Bundle.open(tiny_bundle(tmp_path, "popularity")).manifest.version
    assert version == f"20261123T100000Z-{other[-6:]}"


def test_export_prints_nothing_and_reports_progress(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reports: list[tuple[int, int | None]] = []
    run = tiny_run(tmp_path, "popularity")
    capfd.readouterr()
    export(run, tmp_path / "bundle", progress=lambda done, total, _: reports.append((done, total)))
    assert capfd.readouterr() == ("", "")
    assert reports == [(step, 5) for step in range(6)]


def test_a_model_of_one_behaviour_exports_too(tmp_path: Path) -> None:
    from training.models import build_model
    from training.run import feature_spec

    run = Run.load(tiny_run(tmp_path))
    model = build_model("tin", feature_spec(run.encoder), run.config, history_length=1).eval()
    served = ServedModel(model, Calibration())
    write_graph(served, run.schema, tmp_path)
    golden = next(r for r in Bundle.open(tiny_bundle(tmp_path)).golden() if r.about == "one event")
    with torch.inference_mode():
        expected, _ = served({name: torch.from_numpy(golden.tensors[name]) for name in served.inputs})
    found = Session(tmp_path / "model.onnx").logits(golden.tensors)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)


# ---------------------------------------------------------------- whole or not at all


def hidden(folder: Path) -> list[str]:
    """Return what an export may have left in a folder."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_an_older_bundle_is_replaced_whole(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, "tin")
    exported = export(tiny_run(tmp_path, "popularity"), bundle)
    assert Bundle.open(bundle).manifest.version == exported["version"]
    assert verified_bundle(bundle).bundle.manifest.name == "popularity"
    assert not hidden(tmp_path)


def test_a_foreign_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("mine")
    steps: list[str] = []
    with pytest.raises(InputError, match=r"holds no manifest\.json"):
        export(
            tiny_run(tmp_path, "popularity"),
            tmp_path / "home",
            progress=lambda _done, _total, label: steps.append(label),
        )
    assert steps == ["opening the run"]
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["thesis.txt"]


def test_another_precision_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--precision bf16: no such precision; there are fp32, fp16, int8"):
        export(tmp_path, tmp_path / "bundle", precision="bf16")


def test_a_graph_that_disagrees_with_the_model_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_another(served: ServedModel, *rest) -> None:
        shifted = Calibration(served.calibration.a, served.calibration.b + 1e-3)
        write_graph(ServedModel(served.model, shifted), *rest)

    run = tiny_run(tmp_path, "popularity")
    monkeypatch.setattr(exporter, "write_graph", write_another)
    with pytest.raises(LongsightError, match=r"onnxruntime and torch differ by 0\.001") as failure:
        export(run, tmp_path / "bundle")
    assert failure.value.exit_code == 1
    assert not (tmp_path / "bundle").exists()
    assert not hidden(tmp_path)


def test_a_run_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        export(tmp_path / "nowhere", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_dataset_that_has_gone_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, "popularity")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"dataset": str(tmp_path / "gone")}))
    with pytest.raises(DatasetError, match="gone"):
        export(run, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    assert not hidden(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from export.exporter import export

def progress(done, total, label):
    if label == "checksums":
        os.kill(os.getpid(), signal.SIGKILL)

export(Path(sys.argv[1]), Path(sys.argv[2]), progress=progress)
"""


def test_a_killed_export_leaves_nothing_under_the_name_and_the_next_cleans_up(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, "popularity")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(run), str(tmp_path / "bundle")], cwd=ROOT, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "bundle").exists()
    assert len(hidden(tmp_path)) == 1
    export(run, tmp_path / "bundle")
    assert not hidden(tmp_path)
    assert verified_bundle(tmp_path / "bundle")


# ---------------------------------------------------------------- verify


def test_weights_that_changed_behind_intact_checksums_are_found(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, "mean_pool")
    weights = np.fromfile(bundle / "model.onnx.data", dtype=np.float32)
    (weights * np.float32(1.01)).tofile(bundle / "model.onnx.data")
    forge(bundle)
    with pytest.raises(
        BundleError, match=r"model\.onnx: golden request \d+ .* more than the tolerance 0\.0001"
    ):
        verified_bundle(bundle)


def test_a_graph_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, "popularity")
    (bundle / "model.onnx").write_bytes(b"nonsense")
    forge(bundle)
    with pytest.raises(BundleError, match="onnxruntime can't load it") as refusal:
        verified_bundle(bundle)
    assert "\n" not in str(refusal.value)


def test_a_graph_of_another_model_is_refused(tmp_path: Path) -> None:
    bundle, other = tiny_bundle(tmp_path, "popularity"), tiny_bundle(tmp_path, "tin")
    for file in ("model.onnx", "model.onnx.data"):
        shutil.copyfile(other / file, bundle / file)
    forge(bundle)
    with pytest.raises(BundleError, match="the manifest lists ad_ad_id"):
        verified_bundle(bundle)


def test_a_bundle_is_verified_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom cli.main import run\nassert run(['bundle', 'verify', sys.argv[1]]) == 0\n"
        "assert not {'torch', 'polars', 'onnx'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_bundle(tmp_path))], cwd=ROOT, check=True)
