"""Joins the tensors of several requests into one, and cuts the answer apart again.

Histories are right-aligned, so they are padded on the left; candidates on the right. Padding is zero everywhere:
row 0 of every table, false in the mask. No graph mixes rows or columns, so padding changes no score.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.batching.job import Part


def join(parts: Sequence[Part]) -> dict[str, NDArray[Any]]:
    """Return the tensors of one run: `history_*` [U, L], `user_*` [U], `ad_*` and `context_*` [U, N]."""
    if len(parts) == 1:
        return _alone(parts[0])
    names = parts[0].job.inputs
    return {name: _joined(name, [_cut(name, part) for part in parts]) for name in names}


def split(parts: Sequence[Part], logit_UN: NDArray[np.float32]) -> None:
    """Write each part's columns of the answer into its job."""
    for row, part in enumerate(parts):
        part.job.logit_N[part.start : part.stop] = logit_UN[row, : part.stop - part.start]


def _alone(part: Part) -> dict[str, NDArray[Any]]:
    if part.count == part.job.candidates:
        return dict(part.job.inputs)
    return {name: _cut(name, part) for name in part.job.inputs}


def _cut(name: str, part: Part) -> NDArray[Any]:
    tensor = part.job.inputs[name]
    return tensor[:, part.start : part.stop] if name.startswith(("ad_", "context_")) else tensor


def _joined(name: str, pieces: list[NDArray[Any]]) -> NDArray[Any]:
    if pieces[0].ndim == 1:
        return np.concatenate(pieces)
    width = max(piece.shape[1] for piece in pieces)
    if all(piece.shape[1] == width for piece in pieces):
        return np.concatenate(pieces)
    joined = np.zeros((len(pieces), width), dtype=pieces[0].dtype)
    on_the_left = name.startswith("history_")
    for row, piece in enumerate(pieces):
        columns = slice(width - piece.shape[1], width) if on_the_left else slice(0, piece.shape[1])
        joined[row, columns] = piece[0]
    return joined
