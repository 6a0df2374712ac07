"""A student is distilled once, kept with its run, and used again as long as it fits."""

import json
import shutil

import numpy as np
import pytest
import torch

from contract.errors import InputError, RunError
from tests.support.tiny import tiny_run
from training.dataset import Dataset
from training.distill import distilled, kept_student
from training.distill.kept import MARKER
from training.evaluate import evaluate
from training.models.diffumin.student import Student
from training.run import STUDENT, Run
from training.train import train


@pytest.fixture(scope="module", name="home")
def _home(tmp_path_factory):
    """A run that keeps a student; not to be changed."""
    run = tiny_run(tmp_path_factory.mktemp("distilled"), "diffumin")
    distilled(Run.load(run))
    return run


@pytest.fixture(name="run")
def _run(home, tmp_path):
    shutil.copytree(home, tmp_path / "run")
    return tmp_path / "run"


def files(run) -> list[str]:
    return sorted(path.relative_to(run).as_posix() for path in run.rglob("*"))


def weights(run: Run) -> torch.Tensor:
    return torch.cat([each.flatten() for each in run.model.diffusion.state_dict().values()])


def own_dataset(run):
    """Give the run a dataset of its own and return it."""
    record = json.loads((run / "run.json").read_text())
    copied = run.parent / "dataset"
    shutil.copytree(record["dataset"], copied)
    (run / "run.json").write_text(json.dumps(record | {"dataset": str(copied)}))
    return copied


def test_a_student_takes_the_samplers_place_and_nothing_elses(home):
    run, student = Run.load(home), kept_student(Run.load(home))
    assert isinstance(student.model.diffusion, Student)
    assert not student.model.training
    rest = {name: tensor for name, tensor in run.model.state_dict().items() if "diffusion." not in name}
    found = student.model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in rest.items())


def test_it_is_calibrated_and_judged_as_what_it_is(home):
    run, student = Run.load(home), kept_student(Run.load(home))
    assert student.calibration != run.calibration
    judged = evaluate(home, student=True)
    report = student.metrics["distillation"]
    assert report["split"] == "test"
    assert report["student"] == {name: judged[name] for name in report["student"]}
    assert report["teacher"] == {name: evaluate(home)[name] for name in report["teacher"]}


def test_the_next_time_it_is_there_already(run):
    before = {name: (run / STUDENT / name).stat().st_mtime_ns for name in ("student.json", "student.pt")}
    said: list[str] = []
    found = distilled(Run.load(run), measure=lambda *_: pytest.fail("measured again"), say=said.append)
    assert found.reused
    assert not said
    assert {name: (run / STUDENT / name).stat().st_mtime_ns for name in before} == before
    assert torch.equal(weights(found.run), weights(kept_student(Run.load(run))))


def test_other_weights_of_the_teacher_need_another_student(run):
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    state["head.from_pair.bias"] += 1.0
    torch.save(state, run / "checkpoint.pt")
    with pytest.raises(
        RunError, match="learned from other weights than the run has now; run `longsight export"
    ):
        kept_student(Run.load(run))
    said: list[str] = []
    assert not distilled(Run.load(run), say=said.append).reused
    assert said == [f"{run / STUDENT} learned from other weights than the run has now: distilling anew"]
    assert distilled(Run.load(run)).reused


def test_another_seed_needs_another_student(run):
    said: list[str] = []
    assert not distilled(Run.load(run), seed=1, say=said.append).reused
    assert said == [f"{run / STUDENT} was drawn from seed 0: distilling anew"]
    assert distilled(Run.load(run), seed=1).reused


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "student.pt").write_bytes(b"nonsense"),
        lambda folder: (folder / "student.pt").unlink(),
        lambda folder: (folder / MARKER).write_text("{"),
        lambda folder: (folder / MARKER).write_text("[]"),
        lambda folder: (folder / MARKER).write_text("{}"),
        lambda folder: (folder / MARKER).unlink(),
    ],
    ids=["weights", "no weights", "half a record", "no record at all", "an empty record", "no marker"],
)
def test_a_damaged_student_is_told_of_and_never_used(run, damage):
    damage(run / STUDENT)
    with pytest.raises(RunError, match="student is damaged; run `longsight export") as refusal:
        kept_student(Run.load(run))
    assert "\n" not in str(refusal.value)


def test_a_damaged_student_is_distilled_anew(run):
    (run / STUDENT / "student.pt").write_bytes(b"nonsense")
    said: list[str] = []
    found = distilled(Run.load(run), say=said.append)
    assert said == [f"{run / STUDENT} is damaged: distilling anew"]
    assert torch.equal(weights(found.run), weights(kept_student(Run.load(run))))


def test_a_run_that_keeps_none_says_how_to_come_by_one(tmp_path):
    with pytest.raises(
        RunError, match=r"student: no such folder; run `longsight export .* --diffusion distilled`"
    ):
        kept_student(Run.load(tiny_run(tmp_path, "diffumin")))


@pytest.mark.parametrize(
    "label", ["the teacher at work", "the student learns", "calibration", "scoring with"]
)
def test_ctrl_c_leaves_nothing_behind(tmp_path, label):
    run = tiny_run(tmp_path, "diffumin")
    before = files(tmp_path)

    def interrupt(_done, _total, what):
        if what.startswith(label):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distilled(Run.load(run), progress=interrupt)
    assert files(tmp_path) == before


def test_a_run_that_can_not_be_written_still_has_its_student(tmp_path):
    run = tiny_run(tmp_path, "diffumin")
    (run / STUDENT).write_text("a file where the folder should be")
    said: list[str] = []
    found = distilled(Run.load(run), say=said.append)
    assert isinstance(found.run.model.diffusion, Student)
    assert said[-1].startswith(f"{run / STUDENT}")
    assert said[-1].endswith("the next export of this run distills again")


def test_without_a_test_split_validation_judges(tmp_path):
    run = tiny_run(tmp_path, "diffumin")
    dataset = own_dataset(run)
    requests = np.load(dataset / "requests.npy")
    kept = requests["split"] < 2
    assert kept.any()
    requests["split"][~kept] = 0
    np.save(dataset / "requests.npy", requests)
    assert distilled(Run.load(run)).report["split"] == "validation"


def test_training_a_run_anew_drops_its_student(run):
    settings = {"history_length": 12, "epochs": 1, "diffusion": True, "diffusion_steps": 2}
    dataset = Dataset.open(Run.load(run).dataset().path)
    train(dataset.path, run, model="diffumin", settings=settings, seed=4)
    assert not (run / STUDENT).exists()


def test_variant_d_has_nothing_to_distill(tmp_path):
    dataset = Run.load(tiny_run(tmp_path)).dataset().path
    settings = {"history_length": 12, "epochs": 1, "diffusion": False}
    train(dataset, tmp_path / "d", model="diffumin", settings=settings)
    for attempt in (distilled, kept_student):
        with pytest.raises(
            InputError, match="was trained with diffusion=false, so there is nothing to distill"
        ):
            attempt(Run.load(tmp_path / "d"))
