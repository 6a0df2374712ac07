"""Golden requests: raw requests kept in a bundle with the tensors and the scores they must give.

They prove two things wherever a bundle is opened: that raw values still become the same tensors, and that the
tensors still become the same scores. Knows no onnxruntime: scores are checked with a function that is given.

Folder `golden/`: `requests.jsonl` (raw values), `history.npy` (packed records as bytes), `offsets.npy` (records of
request i: `offsets[i]:offsets[i + 1]`), `tensors.npz` (`<i>/<input>`), `scores.npy` (logits, request after request).
"""

import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from contract.closeness import Closeness
from contract.encoder import Array, Encoder, Tensors
from contract.errors import BundleError
from contract.records import record_dtype
from contract.request import RawRequest
from contract.schema import Schema

FOLDER: Final = "golden"
FILES: Final = ("requests.jsonl", "history.npy", "offsets.npy", "tensors.npz", "scores.npy")
FLOAT_CLOSENESS: Final = 1e-6  # relative; integers must be equal

_UNREADABLE: Final = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
)
_REMEDY: Final = "serve the bundle with the onnxruntime that its provenance names, or export it again"
Scorer: TypeAlias = Callable[[Tensors], NDArray[np.float32]]  # tensors of one request -> logit_UN


@dataclass(frozen=True)
class GoldenRequest:
    """One raw request, what it is about, its tensors and its calibrated log-odds `[N]`."""

    about: str
    raw: RawRequest
    tensors: Tensors
    logit: NDArray[np.float32]

    def encode(self, encoder: Encoder, *, history_lag_s: int = 0) -> Tensors:
        """Return the tensors that `encoder` makes of the raw request today; see `RawRequest.encode`."""
        return self.raw.encode(encoder, history_lag_s=history_lag_s)


def write_golden(folder: Path, requests: Sequence[GoldenRequest]) -> None:
    """Write the golden requests into a new folder."""
    folder.mkdir()
    lines = [json.dumps(_to_json(request), ensure_ascii=False, allow_nan=False) for request in requests]
    (folder / "requests.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    packed = b"".join(request.raw.history.tobytes() for request in requests)
    np.save(folder / "history.npy", np.frombuffer(packed, dtype=np.uint8))
    np.save(folder / "offsets.npy", np.cumsum([0, *(len(request.raw.history) for request in requests)]))
    tensors = {
        f"{index}/{name}": tensor
        for index, request in enumerate(requests)
        for name, tensor in request.tensors.items()
    }
    np.savez(folder / "tensors.npz", allow_pickle=False, **tensors)
    np.save(folder / "scores.npy", np.concatenate([request.logit for request in requests]))


def read_golden(folder: Path, schema: Schema) -> list[GoldenRequest]:
    """Read the golden requests of a bundle.

    Raises:
        BundleError: a file is missing, damaged, or does not fit the others.

    """
    try:
        return _read(folder, schema)
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BundleError(f"{folder}: golden requests not readable ({reason}); export again") from error


def check_encoding(encoder: Encoder, requests: Iterable[GoldenRequest], *, history_lag_s: int) -> None:
    """Check that every golden request still becomes its tensors: integers exactly, float32 within 1e-6.

    Raises:
        BundleError: names the request and the tensor.

    """
    for index, request in enumerate(requests):
        tensors = request.encode(encoder, history_lag_s=history_lag_s)
        for name, expected in request.tensors.items():
            if name not in tensors or not _same(tensors[name], expected):
                raise BundleError(
                    f"golden request {index} ({request.about}): raw values no longer become the same {name}; "
                    "export the bundle with the version that serves it"
                )


def score_differences(score: Scorer, request: GoldenRequest) -> NDArray[np.float64]:
    """Return `[N]` differences in log-odds on one golden request; infinite where there is no number for a score."""
    logit_N = np.asarray(score(request.tensors), dtype=np.float64).reshape(-1)
    if logit_N.shape != request.logit.shape:
        return np.full(request.logit.shape, np.inf)
    return np.where(np.isfinite(logit_N), np.abs(logit_N - request.logit), np.inf)


def check_scores(
    score: Scorer, requests: Sequence[GoldenRequest], *, tolerance: float, hard_routing: bool = False
) -> float:
    """Check that the golden requests' tensors still become their scores; return the largest difference.

    Scores of a model with `hard_routing` are held to its closeness all together. That picks were close where
    scores differ can't be told from a graph: `export` has shown it where the graph was made.

    Raises:
        BundleError: names the request, the difference in log-odds and what is allowed.

    """
    closeness = Closeness(tolerance, hard_routing=hard_routing)
    largest, worst, beyond, total = 0.0, "", 0, 0
    for index, request in enumerate(requests):
        difference_N = score_differences(score, request)
        difference = float(difference_N.max(initial=0.0))
        place = f"golden request {index} ({request.about}): log-odds differ by {difference:.3g}"
        if not difference <= closeness.farthest:
            raise BundleError(f"{place}, more than the tolerance {closeness}; {_REMEDY}")
        if difference > largest:
            largest, worst = difference, place
        beyond += int(closeness.beyond(difference_N).sum())
        total += difference_N.size
    if beyond > closeness.share * total:
        raise BundleError(
            f"{worst}, and {beyond} of all {total} by more than the tolerance {closeness}; {_REMEDY}"
        )
    return largest


def _to_json(request: GoldenRequest) -> dict[str, Any]:
    raw = request.raw
    return {
        "about": request.about,
        "timestamp": raw.timestamp,
        "ads": [dict(ad) for ad in raw.ads],
        "context": dict(raw.context),
        "candidate_context": {name: list(values) for name, values in raw.candidate_context.items()},
        "user": dict(raw.user),
    }


def _read(folder: Path, schema: Schema) -> list[GoldenRequest]:
    lines = (folder / "requests.jsonl").read_text(encoding="utf-8").splitlines()
    records = np.load(folder / "history.npy", allow_pickle=False).view(record_dtype(schema))
    offsets = np.load(folder / "offsets.npy", allow_pickle=False)
    scores = np.load(folder / "scores.npy", allow_pickle=False)
    if len(offsets) != len(lines) + 1:
        raise ValueError(f"{len(lines)} requests and {len(offsets) - 1} histories")
    requests: list[GoldenRequest] = []
    first = 0
    # opened here, since numpy forgets to close a file that it finds damaged
    with (folder / "tensors.npz").open("rb") as file, np.load(file, allow_pickle=False) as archive:
        by_request = _by_request(archive, len(lines))
    for index, line in enumerate(lines):
        data = json.loads(line)
        about = str(data.pop("about"))
        raw = RawRequest(history=records[offsets[index] : offsets[index + 1]], **data)
        logit_N = scores[first : first + len(raw.ads)]
        first += len(raw.ads)
        requests.append(GoldenRequest(about, raw, by_request[index], logit_N))
    if first != len(scores):
        raise ValueError(f"{first} candidates and {len(scores)} scores")
    return requests


def _by_request(archive: Any, count: int) -> list[Tensors]:  # noqa: ANN401 - numpy's NpzFile has no public type
    tensors: list[Tensors] = [{} for _ in range(count)]
    for key in archive.files:
        index, name = key.split("/", 1)
        tensors[int(index)][name] = archive[key]
    return tensors


def _same(actual: Array, expected: Array) -> bool:
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return False
    if actual.dtype.kind != "f":
        return bool((actual == expected).all())
    difference = np.abs(actual.astype(np.float64) - expected)
    return bool((difference <= FLOAT_CLOSENESS * np.maximum(np.abs(actual), np.abs(expected))).all())
