"""What the channels of a trained DiffuMIN do on a dataset's requests.

U requests, N candidate ads, c channels, D width, P non-empty pairs of channels.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.batches import Batch, BatchSource, scoring_order
from training.dataset import Dataset
from training.models.diffumin import Diffumin
from training.models.diffumin.routing import first_of_equals, keep
from training.models.masking import HistoryMask
from training.run import Run
from training.scoring import inputs_of

_REQUESTS: Final = 16


def diffumin_of(run: Run) -> Diffumin:
    """Return the model of a run of DiffuMIN."""
    if not isinstance(run.model, Diffumin):
        raise SystemExit(f"{run.path} is a run of {run.model_name}, which has no channels")
    return run.model


def absolute_cosines(r_UNcD: Tensor, valid_UN: Tensor) -> NDArray[np.float64]:
    """Return |cos| between every two interests of a candidate that are not zeros, `[P]`, of the valid candidates."""
    length_UNc = r_UNcD.norm(dim=-1)
    unit_UNcD = r_UNcD / length_UNc.clamp(min=1e-12).unsqueeze(-1)
    found = []
    for a, b in combinations(range(r_UNcD.shape[2]), 2):
        both_UN = valid_UN & (length_UNc[..., a] > 0) & (length_UNc[..., b] > 0)
        found.append((unit_UNcD[:, :, a] * unit_UNcD[:, :, b]).sum(-1).abs()[both_UN])
    cosines: NDArray[np.float64] = torch.cat(found).double().numpy()
    return cosines


def diversity(run: Run, dataset: Dataset, *, requests: int, seed: int = 0) -> dict[str, float]:
    """Return how alike the interests of a candidate's channels are, over test requests drawn at random.

    `mean_absolute_cosine` is over all pairs of channels that both keep something (all candidates, all requests);
    `empty` is the share of channels that keep nothing.
    """
    model = diffumin_of(run)
    test = dataset.requests_of("test")
    chosen = np.random.default_rng(seed).choice(test, min(requests, len(test)), replace=False)
    cosines, empty, total = [], 0, 0
    with torch.inference_mode():
        for batch in _batches(run, dataset, np.sort(chosen)):
            valid_UN = torch.from_numpy(batch.valid)
            r_UNcD = model.interests(inputs_of(batch)).r
            cosines.append(absolute_cosines(r_UNcD, valid_UN))
            kept_Rc = r_UNcD[valid_UN].abs().amax(-1) > 0
            empty, total = empty + int((~kept_Rc).sum()), total + kept_Rc.numel()
    every = np.concatenate(cosines)
    return {"mean_absolute_cosine": float(every.mean()), "pairs": len(every), "empty": empty / total}


def routes(model: Diffumin, inputs: Mapping[str, Tensor]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return of one request which channel each behaviour is routed to, and whether its filter keeps it there.

    Both `[c, N, l]`, of the l valid behaviours.
    """
    mask = HistoryMask.of(inputs["history_mask"])
    k_ULD = model.time.behaviors(model.embedding.history(inputs), inputs)
    o_UNcD = model.interests(inputs).o
    score_UcNL = torch.einsum("uncd,uld->ucnl", o_UNcD, k_ULD)
    routed_cNL = first_of_equals(score_UcNL, dim=1)[0]
    kept_cNL = keep(score_UcNL, mask, model.config.kept_share, routing=model.config.routing)[0] > 0
    valid_L = mask.valid[0] > 0
    return routed_cNL[..., valid_L].numpy(), kept_cNL[..., valid_L].numpy()


def _batches(run: Run, dataset: Dataset, chosen: NDArray[np.int64]) -> Iterator[Batch]:
    source = BatchSource(dataset, run.encoder, run.model.inputs)
    for part in scoring_order(source, chosen, requests=_REQUESTS):
        yield source.batch(part, serving=True)
