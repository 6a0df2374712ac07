"""A run of DiffuMIN is exported with its sampler's steps or with the one step of a student."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pytest
import torch

from contract.bundle import Bundle, show
from contract.errors import InputError
from contract.manifest import Manifest
from export import distilling
from export.exporter import export
from export.verify import Session
from service.settings import RuntimeSettings
from service.wiring.assembly import verify
from tests.support.tiny import tiny_bundle, tiny_run
from training.batches import BatchSource
from training.evaluate import evaluate
from training.run import STUDENT, Run

TIMED = {"teacher_p50_ms": 4.0, "student_p50_ms": 1.0, "ratio": 0.25}


@pytest.fixture(scope="module", name="home")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run-diffumin`, which keeps a student, and its two bundles, `bundle-diffumin` and `distilled`."""
    home = tmp_path_factory.mktemp("distilled")
    tiny_bundle(home, "diffumin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            distilling, "latency", lambda *_: TIMED
        )  # tracing graphs only to time them takes a minute
        export(tiny_run(home, "diffumin"), home / "distilled", diffusion="distilled")
    return home


@pytest.fixture(name="run")
def _run(home: Path, tmp_path: Path) -> Path:
    shutil.copytree(home / "run-diffumin", tmp_path / "run")
    return tmp_path / "run"


def operators(bundle: Path) -> Counter[str]:
    graph = onnx.load(bundle / "model.onnx", load_external_data=False).graph
    return Counter(node.op_type for node in graph.node)


def entries(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# ---------------------------------------------------------------- what comes out


def test_the_distilled_form_is_a_whole_bundle_that_a_service_takes(home: Path) -> None:
    verified = verify(home / "distilled", RuntimeSettings())
    assert verified.golden_requests >= 32
    assert verified.bundle.manifest.name == "diffumin"


def test_the_manifest_tells_how_interests_are_generated(home: Path, tmp_path: Path) -> None:
    unrolled, distilled = (Manifest.read(home / kind).diffusion for kind in ("bundle-diffumin", "distilled"))
    assert unrolled is not None
    assert (unrolled.kind, unrolled.steps) == ("unrolled", 2)
    assert distilled is not None
    assert (distilled.kind, distilled.steps) == ("distilled", 1)
    assert Manifest.read(tiny_bundle(tmp_path, "mean_pool")).diffusion is None
    assert show(home / "distilled")["diffusion"] == {"kind": "distilled", "steps": 1}


def test_a_bundle_of_before_there_was_diffusion_is_still_read(tmp_path: Path) -> None:
    from tests.support.forgery import forge

    bundle = tiny_bundle(tmp_path, "mean_pool")
    forge(bundle, lambda data: data.pop("diffusion"))
    assert Bundle.open(bundle).manifest.diffusion is None


def test_the_student_spares_the_graph_the_sampler(home: Path) -> None:
    unrolled, distilled = operators(home / "bundle-diffumin"), operators(home / "distilled")
    assert unrolled["LayerNormalization"] > distilled["LayerNormalization"]
    assert distilled.total() < unrolled.total()


def test_the_graph_scores_as_the_run_with_its_student_does_offline(home: Path, tmp_path: Path) -> None:
    evaluate(home / "run-diffumin", student=True, predictions=tmp_path / "student.parquet")
    evaluate(home / "run-diffumin", predictions=tmp_path / "teacher.parquet")
    run, session = Run.load(home / "run-diffumin"), Session(home / "distilled" / "model.onnx")
    dataset = run.dataset()
    source = BatchSource(dataset, run.encoder, run.model.inputs)
    served = {}
    for request in dataset.requests_of("test"):
        batch = source.batch(np.array([request]), serving=True)
        log_rows = np.asarray(dataset.row("log_row"))[batch.row[0]]
        served |= dict(zip(log_rows.tolist(), session.logits(batch.tensors)[0].tolist(), strict=True))
    in_order = np.array([served[row] for row in sorted(served)])
    student, teacher = (
        pl.read_parquet(tmp_path / f"{who}.parquet")["logit"].to_numpy() for who in ("student", "teacher")
    )
    np.testing.assert_allclose(in_order, student, rtol=0, atol=1e-4)
    assert np.abs(in_order - teacher).max() > 1e-2


def test_what_the_student_is_worth_is_in_the_manifest(home: Path) -> None:
    unrolled, distilled = (Manifest.read(home / kind) for kind in ("bundle-diffumin", "distilled"))
    report = distilled.metrics["distillation"]
    assert isinstance(report, dict)
    assert set(report) >= {
        "teacher",
        "student",
        "gauc_difference",
        "gauc_low",
        "log_odds_difference",
        "latency",
    }
    assert report["latency"] == TIMED
    assert distilled.metrics["validation"] != unrolled.metrics["validation"]
    assert distilled.calibration != unrolled.calibration
    assert distilled.provenance["student"]["seed"] == 0


def test_both_graphs_are_timed_on_a_request_of_ordinary_size(tmp_path: Path) -> None:
    run = Run.load(tiny_run(tmp_path, "mean_pool"))
    found = distilling.latency(run, run)
    assert (found["behaviors"], found["candidates"]) == (12, 100)
    assert found["teacher_p50_ms"] > 0
    assert found["ratio"] == pytest.approx(found["student_p50_ms"] / found["teacher_p50_ms"])
    tensors = distilling.typical_request(run)
    assert tensors["history_mask"].all()
    assert tuple(tensors) == run.model.inputs


# ---------------------------------------------------------------- kept, refused, stopped


def test_the_next_export_uses_the_kept_student(
    home: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distilling, "latency", lambda *_: pytest.fail("distilled again"))
    before = (run / STUDENT / "student.pt").stat().st_mtime_ns
    exported = export(run, run.parent / "bundle", diffusion="distilled")
    assert (run / STUDENT / "student.pt").stat().st_mtime_ns == before
    first = Manifest.read(home / "distilled")
    assert exported["version"][-6:] == first.version[-6:]
    assert exported["distillation"] == {**first.metrics["distillation"], "reused": True}


def test_the_distilled_form_has_one_of_fp16_too(home: Path, run: Path) -> None:
    exported = export(run, run.parent / "half", diffusion="distilled", precision="fp16")
    manifest = verify(run.parent / "half", RuntimeSettings()).bundle.manifest
    assert (manifest.precision, manifest.diffusion) == ("fp16", Manifest.read(home / "distilled").diffusion)
    assert set(manifest.metrics) >= {"distillation", "reduction"}
    assert exported["reduction"]["fp32"]["gauc"] == pytest.approx(
        exported["distillation"]["student"]["gauc"], abs=1e-3
    )


def test_a_student_that_ranks_worse_is_told_of(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(run / STUDENT)
    monkeypatch.setattr("training.verdict.WORST_GAUC", 1.0)
    monkeypatch.setattr(distilling, "latency", lambda *_: {})
    said: list[str] = []
    student, told = distilling.distill(Run.load(run), seed=0, report=lambda *_: None, say=said.append)
    assert told["distillation"]["close"] is False
    assert len(said) == 1
    assert "compare before you serve it, or export --diffusion unrolled" in said[0]
    assert student.metrics["distillation"]["close"] is False


@pytest.mark.parametrize("model", ["tin", "popularity"])
def test_a_model_without_diffusion_is_not_distilled(tmp_path: Path, model: str) -> None:
    run = tiny_run(tmp_path, model)
    before = entries(tmp_path)
    with pytest.raises(InputError, match=f"is a run of {model}, which generates no interests") as refusal:
        export(run, tmp_path / "bundle", diffusion="distilled")
    assert refusal.value.exit_code == 2
    assert "\n" not in str(refusal.value)
    assert entries(tmp_path) == before


def test_another_way_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--diffusion rolled: no such way; there are unrolled, distilled"):
        export(tmp_path, tmp_path / "bundle", diffusion="rolled")


@pytest.mark.parametrize(
    ("label", "kept"),
    [("the student learns", False), ("timing both graphs", False), ("tracing the graph", True)],
)
def test_ctrl_c_leaves_no_bundle_and_a_student_whole_or_not_at_all(
    tmp_path: Path, label: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(tmp_path, "diffumin")
    if kept:
        monkeypatch.setattr(distilling, "latency", lambda *_: {})

    def interrupt(_done: int, _total: int | None, what: str) -> None:
        if what == label:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(run, tmp_path / "bundle", diffusion="distilled", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["run-diffumin"]
    names = [name for name in entries(run) if name.startswith((".", STUDENT))]
    assert names == (["student", "student/student.json", "student/student.pt"] if kept else [])


def test_a_bundle_folder_that_is_none_is_refused_before_the_minutes_of_distilling(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("mine")
    labels: list[str] = []
    with pytest.raises(InputError, match=r"holds no manifest\.json"):
        export(
            tiny_run(tmp_path, "diffumin"),
            tmp_path / "home",
            diffusion="distilled",
            progress=lambda _done, _total, label: labels.append(label),
        )
    assert labels == ["opening the run"]


def test_weights_are_read_without_unpickling(home: Path) -> None:
    state = torch.load(home / "run-diffumin" / STUDENT / "student.pt", weights_only=True)
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
