"""A run folder: a trained model with everything needed to score, evaluate and export it.

| file | holds |
|---|---|
| `run.json` | model, configuration, settings, seed, schema, transforms, calibration, sampling, metrics; written last |
| `checkpoint.pt` | the best weights, a state dict of plain tensors |
| `vocabularies/<name>.npy`, `.names` | known keys, ascending, and their raw texts where the dataset knows them |
| `metrics.jsonl` | one line per epoch, and about a hundred about steps |
| `student/` | what `export --diffusion distilled` has made of the run, if it has (`training.distill.kept`) |
"""

import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from contract.encoder import Encoder, Transform
from contract.errors import LongsightError, RunError
from contract.schema import Schema
from contract.vocabulary import NameTable, Vocabulary
from training.calibration import Calibration
from training.dataset import UNREADABLE, Dataset
from training.models import CtrModel, build_model
from training.models.features import FeatureSpec

FORMAT: Final = 1
MARKER: Final = "run.json"
STUDENT: Final = "student"
OWN: Final = ("vocabularies", STUDENT)
"""The folders that a run folder holds: with any other it is not replaced."""


@dataclass(frozen=True)
class Run:
    """An opened run; `model` holds the best weights and is in eval mode."""

    path: Path
    record: dict[str, Any]
    encoder: Encoder
    model: CtrModel

    @classmethod
    def load(cls, path: Path) -> Self:
        """Open a run folder.

        Raises:
            RunError: it is missing, unfinished, damaged or of another format.

        """
        marker = path / MARKER
        try:
            record = json.loads(marker.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunError(
                f"{marker}: no such file; run `longsight train DATASET {path} --model M` first"
            ) from error
        except (json.JSONDecodeError, UnicodeDecodeError, OSError, RecursionError) as error:
            raise RunError(f"{marker}: not readable: {error}; train the run again") from error
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise RunError(f"{marker}: not of format {FORMAT}; train the run again")
        try:
            encoder = _read_encoder(path, record)
            model = build_model(
                record["model"],
                feature_spec(encoder),
                record["config"],
                history_length=record["history_length"],
            )
            model.load_state_dict(_read_weights(path / "checkpoint.pt"))
        except LongsightError:
            raise
        except (*UNREADABLE, KeyError, AttributeError, RuntimeError, TypeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RunError(f"{path}: damaged ({reason}); train the run again") from error
        return cls(path, record, encoder, model.eval())

    @property
    def schema(self) -> Schema:
        """The schema the run was trained on."""
        return self.encoder.schema

    @property
    def model_name(self) -> str:
        """One of `training.models.MODEL_NAMES`."""
        return str(self.record["model"])

    @property
    def config(self) -> dict[str, Any]:
        """The model's own configuration."""
        return dict(self.record["config"])

    @property
    def history_length(self) -> int:
        """L."""
        return int(self.record["history_length"])

    @property
    def history_lag_s(self) -> int:
        """Seconds by which a history ends before its request."""
        return int(self.record["history_lag_s"])

    @property
    def calibration(self) -> Calibration:
        """`logit = a * raw + b`."""
        return Calibration(**self.record["calibration"])

    @property
    def sampling(self) -> dict[str, Any]:
        """What is known of the log's sampling."""
        return dict(self.record["sampling"])

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics by split."""
        return dict(self.record["metrics"])

    @property
    def provenance(self) -> dict[str, Any]:
        """Seed, git revision, versions, data fingerprint."""
        return dict(self.record["provenance"])

    def dataset(self) -> Dataset:
        """Open the dataset the run was trained on.

        Raises:
            DatasetError: it has moved or was damaged.
            RunError: it has changed since.

        """
        dataset = Dataset.open(Path(self.record["dataset"]))
        if dataset.fingerprint != self.provenance["dataset_fingerprint"]:
            raise RunError(f"{dataset.path}: has changed since {self.path} was trained; train the run again")
        return dataset


def feature_spec(encoder: Encoder) -> FeatureSpec:
    """Return what a model must know of an encoder: fields and table sizes."""
    return FeatureSpec.from_schema(encoder.schema, {name: v.size for name, v in encoder.vocabularies.items()})


def write_encoder(folder: Path, encoder: Encoder, dataset: Dataset) -> dict[str, Any]:
    """Write the vocabularies of a run; returns the JSON of its transforms."""
    target = folder / "vocabularies"
    target.mkdir()
    for name, vocabulary in encoder.vocabularies.items():
        np.save(target / f"{name}.npy", vocabulary.known)
        lengths, pieces = dataset.texts(name).encoded(vocabulary.known)
        NameTable.write_encoded(target / f"{name}.names", lengths, pieces)
    return {name: asdict(transform) for name, transform in encoder.transforms.items()}


def _read_keys(path: Path) -> NDArray[np.uint64]:
    with path.open("rb") as file:  # opened here, since numpy forgets to close a file that it finds damaged
        keys: NDArray[np.uint64] = np.load(file, allow_pickle=False)
    return keys


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        weights: dict[str, torch.Tensor] = torch.load(path, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:  # its own words are a page of advice
        raise RunError(f"{path}: damaged, it holds no weights; train the run again") from error
    return weights


def _read_encoder(path: Path, record: Mapping[str, Any]) -> Encoder:
    schema = Schema.from_json(record["schema"], place=str(path / MARKER))
    vocabularies = {
        name: Vocabulary(spec, _read_keys(path / "vocabularies" / f"{name}.npy"))
        for name, spec in schema.vocabularies.items()
    }
    transforms = {name: Transform(**values) for name, values in record["transforms"].items()}
    return Encoder(schema, vocabularies, transforms, history_length=record["history_length"])
