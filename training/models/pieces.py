"""Work on many ads, done for a few at a time: what lies between its steps stays in a core's cache.

Columns of ads never mix, so pieces change nothing but the order of memory accesses. A graph holds no loop: when a model
is traced for one (`marked`), the work stands in it once, between two marks, and `export.pieces` repeats it.

U requests, L behaviours, N candidate ads.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Final

import torch
from torch import Tensor

PIECE_BYTES: Final = 256 * 1024
"""Of the widest step for the ads of a piece; a core's second-level cache holds it and the next step's."""
DOMAIN: Final = "longsight.pieces"
"""Of the marks in a traced graph."""

_marked: ContextVar[bool] = ContextVar("marked", default=False)


@contextlib.contextmanager
def marked() -> Iterator[None]:
    """Trace work in pieces as one piece between marks: `Begin` and `End` nodes of `DOMAIN`."""
    token = _marked.set(True)
    try:
        yield
    finally:
        _marked.reset(token)


def in_pieces(
    work: Callable[..., Tensor], per_ad: Sequence[Tensor], *, axis: int, pairs_UL: Tensor, widest: int
) -> Tensor:
    """Return `work(*per_ad)`, done for some ads at a time.

    Args:
        work: takes tensors of some ads, n on `axis`, and returns theirs, on the same axis; it must not know N, so it
            writes -1 in its reshapes.
        per_ad: tensors with N on `axis`.
        axis: neither the first nor one from the end.
        pairs_UL: any tensor that begins with `[U, L]`: an ad meets so many behaviours.
        widest: numbers that a pair needs at once.

    """
    if _marked.get():
        marks = {"axis": axis, "pair_bytes": 4 * widest}
        begun = [_mark("Begin", [tensor, pairs_UL], marks) for tensor in per_ad]
        return _mark("End", [work(*begun)], marks)
    if torch.compiler.is_exporting():
        return work(*per_ad)
    ads = max(1, PIECE_BYTES // max(1, 4 * widest * pairs_UL.shape[0] * pairs_UL.shape[1]))
    split = (torch.split(tensor, ads, dim=axis) for tensor in per_ad)
    return torch.cat([work(*some) for some in zip(*split, strict=True)], dim=axis)


def _mark(name: str, given: Sequence[Tensor], marks: Mapping[str, int]) -> Tensor:
    """Return a node that stands for its first input."""
    like = given[0]
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{name}", given, dict(marks), dtype=like.dtype, shape=like.shape, version=1
    )
