"""The one-step student: a function of one pair, as the sampler is."""

import logging

import onnxruntime
import pytest
import torch

from training.models.diffumin import DiffuminConfig
from training.models.diffumin.student import Student

CONFIG = DiffuminConfig(embedding_width=8, channels=3)


@pytest.fixture(name="student")
def _student() -> Student:
    torch.manual_seed(0)
    student = Student(CONFIG).eval()
    for parameter in student.parameters():  # it begins as one that changes nothing
        torch.nn.init.normal_(parameter, std=0.05)
    return student


@pytest.fixture
def _no_debug_lines():
    logging.disable(logging.ERROR)  # the tracer writes a book of them, which pytest would keep
    yield
    logging.disable(logging.NOTSET)


def pair(*leading: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (*leading, CONFIG.channels, CONFIG.embedding_width)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def test_a_new_student_changes_nothing():
    r, o = pair(5)
    torch.testing.assert_close(Student(CONFIG)(r, o), r)


def test_an_empty_channel_generates_zeros_and_the_others_do_not(student):
    r, o = pair(4)
    r[:, 1] = 0.0
    generated = student(r, o)
    assert not generated[:, 1].any()
    assert generated[:, [0, 2]].ne(0).any(-1).all()
    assert not student(torch.zeros_like(r), o).any()


def test_what_is_generated_has_the_scale_of_the_interests(student):
    r, o = pair(6)
    torch.testing.assert_close(student(1000 * r, o), 1000 * student(r, o), rtol=1e-4, atol=1e-2)


def test_a_pair_does_not_depend_on_the_others_nor_on_how_they_are_laid_out(student):
    r, o = pair(2, 7)
    together = student(r, o)
    assert together.shape == r.shape
    for u in range(2):
        for n in range(7):
            torch.testing.assert_close(student(r[u, n], o[u, n]), together[u, n], rtol=0, atol=1e-5)


def test_every_channel_of_a_pair_is_seen_by_the_others(student):
    r, o = pair(1)
    moved = r.clone()
    moved[:, 0] = moved[:, 0].roll(1, -1)
    assert not torch.allclose(student(r, o)[:, 1:], student(moved, o)[:, 1:], atol=1e-3)


def test_gradients_of_empty_channels_are_finite(student):
    r, o = pair(3)
    r[:, 0] = 0.0
    r.requires_grad_()
    student(r, o).sum().backward()
    assert r.grad.isfinite().all()


@pytest.mark.filterwarnings("ignore")  # the exporter's own deprecations
@pytest.mark.usefixtures("_no_debug_lines")
def test_onnxruntime_computes_the_same_for_any_number_of_pairs(student, tmp_path):
    u, n = torch.export.Dim("U"), torch.export.Dim("N")
    program = torch.onnx.export(
        student, pair(2, 3), dynamo=True, opset_version=20, dynamic_shapes=({0: u, 1: n},) * 2, verbose=False
    )
    program.save(tmp_path / "student.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "student.onnx", providers=["CPUExecutionProvider"])
    for leading in ((1, 1), (3, 5)):
        r, o = pair(*leading, seed=1)
        r[0, 0, 0] = 0.0
        names = [node.name for node in session.get_inputs()]
        (found,) = session.run(None, dict(zip(names, (r.numpy(), o.numpy()), strict=True)))
        with torch.inference_mode():
            torch.testing.assert_close(torch.from_numpy(found), student(r, o), rtol=1e-4, atol=1e-4)
