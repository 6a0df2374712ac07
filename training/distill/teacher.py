"""What the sampler of a trained model does, noted pair by pair: the student's lessons.

U requests, N candidate ads, P pairs of them, c channels, D width.
"""

import copy
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from contract.errors import InputError
from training.batches import BatchSource, scoring_order
from training.models.diffumin import Diffumin
from training.run import Run
from training.scoring import Progress, inputs_of

LESSON_BYTES: Final = 400_000_000
"""Most memory that the lessons may take."""
MOST_PAIRS: Final = 150_000
_REQUESTS: Final = 16  # of a batch; what the sampler holds at a time grows with it


@dataclass(frozen=True)
class Lessons:
    """Pairs of logged requests as the sampler met them."""

    r: Tensor
    """`[P, c, D]` interests that went in."""
    o: Tensor
    """`[P, c, D]` channels that went in."""
    generated: Tensor
    """`[P, c, D]` interests that came out."""
    slope: Tensor
    """`[P, c, D]` derivative of the pair's raw log-odds by what came out: how much a mistake there matters."""

    def __len__(self) -> int:
        return len(self.r)


class Watched(nn.Module):
    """Stands in for the sampler: lets it work, and notes what goes in and out."""

    def __init__(self, sampler: nn.Module) -> None:
        super().__init__()
        self.sampler = sampler
        self.seen: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, r_PcD: Tensor, o_PcD: Tensor, *others: object) -> Tensor:
        """Return what the sampler does, as the leaf by which the log-odds can be derived."""
        with torch.no_grad():
            generated_PcD: Tensor = self.sampler(r_PcD, o_PcD, *others).requires_grad_()
        self.seen = r_PcD, o_PcD, generated_PcD
        return generated_PcD


def teacher_of(run: Run) -> Diffumin:
    """Return the model of a run if there is something to distill.

    Raises:
        InputError: it has no sampler.

    """
    model = run.model
    if not isinstance(model, Diffumin):
        raise InputError(
            f"--diffusion distilled: {run.path} is a run of {run.model_name}, which generates no interests; "
            "leave --diffusion out"
        )
    if model.diffusion is None:
        raise InputError(
            f"--diffusion distilled: {run.path} was trained with diffusion=false, so there is nothing to distill; "
            "train with --set diffusion=true, or leave --diffusion out"
        )
    return model


def with_sampler(model: Diffumin, sampler: nn.Module) -> Diffumin:
    """Return a model that shares the weights of `model`, frozen, but generates with another sampler."""
    shared: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    shared |= {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    twin = copy.deepcopy(model, shared)
    twin.add_module("diffusion", sampler)
    return twin


def lessons(
    teacher: Diffumin,
    source: BatchSource,
    chosen: NDArray[np.int64],
    *,
    seed: int,
    report: Progress,
    label: str,
) -> Lessons:
    """Return the lessons of requests drawn from the chosen ones: all, or as many as `MOST_PAIRS` allow.

    Args:
        teacher: in eval mode; left as it is.
        source: of its dataset.
        chosen: requests.
        seed: of the draw.
        report: called with (done, total, label).
        label: what to report.

    """
    assert isinstance(teacher.diffusion, nn.Module)
    watched = Watched(teacher.diffusion)
    model = with_sampler(teacher, watched)
    pair_bytes = 4 * 4 * teacher.config.channels * teacher.config.embedding_width
    most = min(MOST_PAIRS, LESSON_BYTES // pair_bytes)
    drawn = _drawn(source, chosen, seed=seed, most=most)
    parts: list[tuple[Tensor, ...]] = []
    done = 0
    for some in scoring_order(source, drawn, requests=_REQUESTS):
        batch = source.batch(some, serving=True)
        logit_UN = model(inputs_of(batch))
        assert watched.seen is not None
        r, o, generated = watched.seen
        (slope,) = torch.autograd.grad(logit_UN.sum(), generated)
        valid = torch.from_numpy(np.flatnonzero(batch.valid))
        parts.append(tuple(each.detach().flatten(0, -3)[valid] for each in (r, o, generated, slope)))
        done += len(some)
        report(done, len(drawn), label)
    return Lessons(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _drawn(source: BatchSource, chosen: NDArray[np.int64], *, seed: int, most: int) -> NDArray[np.int64]:
    """Return requests at random until their pairs are enough."""
    shuffled = np.random.default_rng(seed).permutation(chosen)
    _, pairs = source.sizes(shuffled)
    return shuffled[: max(1, int(np.searchsorted(np.cumsum(pairs), most, side="right")))]
