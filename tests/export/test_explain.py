"""`explain.onnx` is `model.onnx` with one more output, on the same weights; and it says what torch says."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from contract.bundle import Bundle
from contract.errors import BundleError, LongsightError
from export import explained_parity
from export.explain import write_explained
from export.explained_parity import check_explained
from export.exporter import export
from export.graph import ServedModel, write_graph
from export.verify import Session
from service.settings import RuntimeSettings
from service.wiring.assembly import verify
from tests.support.forgery import forge
from tests.support.tiny import tiny_bundle, tiny_run
from training.run import Run

MODELS = ["tin", "din", "mean_pool", "diffumin"]


@pytest.fixture(scope="module", params=MODELS, name="pair")
def _pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Bundle]:
    home = tmp_path_factory.mktemp(request.param)
    bundle = tiny_bundle(home, request.param)
    return Run.load(tiny_run(home, request.param)), Bundle.open(bundle)


def graph_of(path: Path) -> onnx.GraphProto:
    return onnx.load(path, load_external_data=False).graph


def explained(bundle: Bundle) -> Session:
    assert bundle.explained_path is not None
    return Session(bundle.explained_path)


# ---------------------------------------------------------------- what it computes


def test_its_weights_are_torchs_on_raw_histories(pair: tuple[Run, Bundle]) -> None:
    run, bundle = pair
    session, seen = explained(bundle), set()
    for request in bundle.golden():
        tensors = request.raw.encode(run.encoder, history_lag_s=run.history_lag_s)
        found = session.run(tensors)["weight"]
        inputs = {name: torch.from_numpy(tensors[name]) for name in run.model.inputs}
        with torch.inference_mode():
            expected = run.model.behavior_weights(inputs)
        assert expected is not None
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5, err_msg=request.about)
        assert found.shape == (1, len(request.raw.ads), tensors["history_mask"].shape[1])
        seen.add(found.shape[2])
    assert {1, 12} <= seen


def test_its_log_odds_are_those_of_the_plain_graph(pair: tuple[Run, Bundle]) -> None:
    _, bundle = pair
    session, plain = explained(bundle), Session(bundle.graph_path)
    for request in bundle.golden():
        np.testing.assert_allclose(
            session.logits(request.tensors), plain.logits(request.tensors), rtol=0, atol=1e-5
        )


def test_weights_depend_on_no_company(pair: tuple[Run, Bundle]) -> None:
    _, bundle = pair
    session = explained(bundle)
    request = next(r for r in bundle.golden() if r.about == "many candidates")
    weight_NL = session.run(request.tensors)["weight"][0]
    columns = {name for name in request.tensors if name.startswith(("ad_", "context_"))}
    for part in (slice(0, 1), slice(7, 40)):
        cut = {n: t[:, part] if n in columns else t for n, t in request.tensors.items()}
        np.testing.assert_allclose(session.run(cut)["weight"][0], weight_NL[part], rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- what it is made of


def test_it_holds_the_plain_graph_node_by_node_and_a_handful_more(pair: tuple[Run, Bundle]) -> None:
    _, bundle = pair
    assert bundle.explained_path is not None
    plain, more = graph_of(bundle.graph_path), graph_of(bundle.explained_path)
    assert list(more.node)[: len(plain.node)] == list(plain.node)
    assert len(more.node) - len(plain.node) <= 4
    assert [value.name for value in more.input] == [value.name for value in plain.input]
    assert [value.name for value in more.output] == ["logit", "probability", "weight"]


def test_it_points_at_the_weights_of_the_plain_graph(pair: tuple[Run, Bundle]) -> None:
    _, bundle = pair
    assert bundle.explained_path is not None
    plain, more = graph_of(bundle.graph_path), graph_of(bundle.explained_path)
    assert list(more.initializer)[: len(plain.initializer)] == list(plain.initializer)
    outside = [tensor for tensor in more.initializer if tensor.external_data]
    assert outside
    assert {
        entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"
    } == {"model.onnx.data"}
    grown = bundle.explained_path.stat().st_size - bundle.graph_path.stat().st_size
    assert 0 < grown < 2_000
    assert not list(bundle.path.glob("explain.onnx.*"))


def test_an_optimised_session_runs_nothing_twice(tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle(tmp_path, "din"))
    counts = {}
    for name in ("model.onnx", "explain.onnx"):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / name)
        options.log_severity_level = 3
        onnxruntime.InferenceSession(bundle.path / name, options)
        counts[name] = sum(node.op_type == "MatMul" for node in graph_of(tmp_path / name).node)
    assert counts["explain.onnx"] == counts["model.onnx"] > 0


# ---------------------------------------------------------------- listed, checked, or not there


def test_it_is_listed_and_a_damaged_one_is_refused_as_any_file(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, "tin")
    assert "explain.onnx" in Bundle.open(bundle).manifest.files
    content = bytearray((bundle / "explain.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "explain.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"explain\.onnx: damaged, its checksum does not hold"):
        verify(bundle, RuntimeSettings())
    (bundle / "explain.onnx").unlink()
    with pytest.raises(BundleError, match=r"explain\.onnx: missing"):
        Bundle.open(bundle)


def test_bundle_verify_holds_it_to_the_golden_scores(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from cli.main import run

    bundle = tiny_bundle(tmp_path, "mean_pool")
    assert run(["bundle", "verify", str(bundle), "--json"]) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["explains"] is True
    shutil.copyfile(bundle / "model.onnx", bundle / "explain.onnx")
    forge(bundle)
    assert run(["bundle", "verify", str(bundle)]) == 2
    assert "explain.onnx: has other inputs or outputs than explanations need" in capfd.readouterr().err


def test_popularity_has_none(tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle(tmp_path, "popularity"))
    assert bundle.explained_path is None
    assert "explain.onnx" not in bundle.manifest.files


def test_export_says_how_closely_the_weights_follow(tmp_path: Path) -> None:
    assert export(tiny_run(tmp_path, "mean_pool"), tmp_path / "pool")["weight_difference"] <= 1e-6
    assert export(tiny_run(tmp_path, "popularity"), tmp_path / "popular")["weight_difference"] is None


def test_a_model_of_one_behaviour_is_explained_too(tmp_path: Path) -> None:
    from training.models import build_model
    from training.run import feature_spec

    run = Run.load(tiny_run(tmp_path))
    model = build_model("tin", feature_spec(run.encoder), run.config, history_length=1)
    served = ServedModel(model, run.calibration)
    write_graph(served, run.schema, tmp_path)
    write_explained(served, run.schema, tmp_path)
    golden = [r for r in Bundle.open(tiny_bundle(tmp_path)).golden() if r.about == "one event"]
    plain, explained = (Session(tmp_path / name) for name in ("model.onnx", "explain.onnx"))
    assert check_explained(served, plain, explained, golden) <= 1e-5


def test_weights_that_are_not_torchs_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = explained_parity.torch_weights

    def wrong(*arguments) -> np.ndarray:
        return right(*arguments) + np.float32(2e-4)

    run = tiny_run(tmp_path, "mean_pool")
    monkeypatch.setattr(explained_parity, "torch_weights", wrong)
    with pytest.raises(LongsightError, match=r"weights of explain\.onnx and of torch differ by 0\.0002"):
        export(run, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_an_old_bundle_without_it_opens_and_serves(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, "tin")
    (bundle / "explain.onnx").unlink()
    forge(bundle)
    assert "explain.onnx" not in json.loads((bundle / "manifest.json").read_text())["files"]
    assert verify(bundle, RuntimeSettings()).bundle.explained_path is None
