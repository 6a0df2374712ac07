"""Untrained models as graphs, for what does not depend on weights: how long a run takes, and how much memory.

The log they would be for has two behaviour fields, an item and its category, both matched by the ad.

U requests, N candidates, L behaviours.
"""

import shutil
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks.support.item_schema import item_schema
from contract.bundle import GRAPH
from contract.encoder import Tensors
from contract.schema import Schema
from export.graph import ServedModel, write_graph
from training.calibration import Calibration
from training.models import CtrModel, build_model
from training.models.features import FeatureSpec

ROWS: Final = {"item": 50_000, "category": 500}
"""Rows of the tables."""
SCHEMA: Final = Schema.from_json(tomllib.loads(item_schema(validation_from=2_000_000, test_from=3_000_000)))
FEATURES: Final = FeatureSpec.from_schema(SCHEMA, ROWS)


def untrained(
    model: str, settings: Mapping[str, object], *, history_length: int, features: FeatureSpec = FEATURES
) -> CtrModel:
    """Return a model as it is before its first step, seed 0, in eval mode."""
    torch.manual_seed(0)
    return build_model(model, features, settings, history_length=history_length).eval()


def write(model: CtrModel, folder: Path) -> Path:
    """Write a model's graph into a folder of its own, through the project's exporter; returns the graph."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_graph(ServedModel(model, Calibration()), SCHEMA, folder)
    return folder / GRAPH


def tensors(
    names: Sequence[str], *, behaviors: int, candidates: int, seed: int = 0, items: int = ROWS["item"]
) -> Tensors:
    """Return one request of random ids with a full history, of the inputs that a graph takes."""
    rng = np.random.default_rng(seed)
    history, ads = (1, behaviors), (1, candidates)
    every: dict[str, Any] = {
        "history_item_id": rng.integers(1, items, history),
        "history_category": rng.integers(1, ROWS["category"], history),
        "history_age": np.sort(rng.integers(1, 24, history))[:, ::-1].copy(),
        "history_mask": np.ones(history, dtype=bool),
        "ad_ad_id": rng.integers(1, items, ads),
        "ad_category": rng.integers(1, ROWS["category"], ads),
    }
    return {name: every[name] for name in names}
