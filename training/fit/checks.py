"""What can be refused before a training begins."""

import numpy as np
import torch

from contract.errors import DatasetError, InputError
from training.dataset import Dataset, SplitName
from training.models import CtrModel
from training.models.dice import Dice


def check_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        InputError: it is neither cpu nor cuda, or torch sees no CUDA device.

    """
    if device not in {"cpu", "cuda"}:
        raise InputError(f"--device {device}: must be cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda: torch sees no CUDA device here; install a CUDA build or use --device cpu"
        )


def check_splits(dataset: Dataset) -> None:
    """Refuse a dataset on which nothing can be learned or judged.

    Raises:
        DatasetError: the training or the validation split is empty, or its rows are of one class.

    """
    names: tuple[SplitName, ...] = ("train", "validation")
    for name in names:
        rows = dataset.rows_of(dataset.requests_of(name))
        clicks = int(np.count_nonzero(np.asarray(dataset.row("clicked"))[rows]))
        if clicks in (0, len(rows)):
            raise DatasetError(
                f"{dataset.path}: {clicks} of {len(rows)} rows of the {name} split are clicked, so there is "
                "nothing to compare; check the log's clicks and [split], and prepare again"
            )


def check_parallel(model: CtrModel) -> None:
    """Refuse a model whose batch statistics would be those of one process's part of the batch.

    Raises:
        InputError: it has Dice layers.

    """
    if any(isinstance(module, Dice) for module in model.modules()):
        raise InputError(
            "activation dice needs the statistics of the whole batch, which several processes don't share; "
            "set attention_activation and head_activation to prelu or relu, or train in one process"
        )
