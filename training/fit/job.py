"""One training as it was asked for: builds encoder, model and trainer, and fits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from contract.encoder import Encoder
from contract.files import sha256_file
from training.batches import BatchSource
from training.dataset import Dataset
from training.fit.checks import check_parallel
from training.fit.counting import count_clicks
from training.fit.memory import keep_freed_memory
from training.fit.occurrences import occurrences
from training.fit.peers import Peers
from training.fit.position import Position
from training.fit.step import TrainStep
from training.fit.stop import stop_flag
from training.fit.trainer import Material, Trainer
from training.fit.warm_start import check_alike, start_from, warm_encoder
from training.fit.work import WorkFolder, read_position
from training.fitting import fit_encoder
from training.models import CtrModel, build_model
from training.models.popularity import Popularity
from training.provenance import provenance
from training.run import MARKER, Run, feature_spec
from training.scoring import Progress
from training.settings import TrainSettings
from training.weights import loss_weights


@dataclass(frozen=True)
class Fitted:
    """A model after its training; its weights are those of the last step."""

    model: CtrModel
    encoder: Encoder
    material: Material
    at: Position
    seconds: float


@dataclass(frozen=True)
class Job:
    """What is to be trained, on what and how."""

    dataset: Dataset
    run: Path
    model: str
    training: TrainSettings
    config: dict[str, Any]
    seed: int
    device: str
    warm: Run | None
    """The run to start from."""
    save_every_s: float

    def fit(self, peers: Peers, work: WorkFolder | None, *, resume: bool, report: Progress) -> Fitted:
        """Fit the model in this process; only the first process has a work folder.

        Raises:
            InputError: what is to be resumed, or to start from, is another training.
            StoppedError: a signal came.

        """
        keep_freed_memory()
        torch.manual_seed(self.seed)
        encoder = self._encoder()
        model = self._build(encoder, peers).to(self.device)
        source = BatchSource(self.dataset, encoder, model.inputs)
        material = Material(self.dataset, source, loss_weights(self.dataset))
        saved = read_position(self.run, self._identity()) if resume else None
        peers.any(False)  # noqa: FBT003 - all have read before the first goes on and writes
        if work is not None and saved is None:
            work.begin()
        if isinstance(model, Popularity):
            at = count_clicks(model, material, work, report=report)
            return Fitted(model, encoder, material, at, at.seconds)
        step = self._step(model, encoder, material, peers)
        with stop_flag() as stop:
            trainer = Trainer(
                material,
                step,
                work=work,
                identity=self._identity(),
                seed=self.seed,
                stop=stop,
                report=report,
                save_every_s=self.save_every_s,
            )
            if saved is not None:
                trainer.resume(*saved)
                saved = None  # as large as the model and its optimiser
            trainer.fit()
        return Fitted(model, encoder, material, trainer.at, trainer.seconds)

    def origin(self, peers: Peers) -> dict[str, Any]:
        """Return the provenance of the run."""
        return provenance(
            seed=self.seed,
            dataset_fingerprint=self.dataset.fingerprint,
            device=self.device,
            processes=peers.size,
            init_from=None if self.warm is None else self.warm.path,
        )

    def _encoder(self) -> Encoder:
        encoder = fit_encoder(self.dataset, history_length=self.training.history_length)
        if self.warm is None:
            return encoder
        check_alike(self.warm, model=self.model, config=self.config, encoder=encoder)
        return warm_encoder(self.warm, encoder)

    def _build(self, encoder: Encoder, peers: Peers) -> CtrModel:
        model = build_model(
            self.model, feature_spec(encoder), self.config, history_length=self.training.history_length
        )
        if peers.size > 1:
            check_parallel(model)
        if self.warm is not None:
            start_from(self.warm, model, encoder)
        return model

    def _step(self, model: CtrModel, encoder: Encoder, material: Material, peers: Peers) -> TrainStep:
        return TrainStep(
            model,
            self.training,
            steps=material.count(self.training) * self.training.epochs,
            device=self.device,
            seed=self.seed,
            peers=peers,
            occurrences=occurrences(self.dataset, encoder) if self.training.embedding_l2 else None,
        )

    def _identity(self) -> dict[str, object]:
        """Return what a training that goes on from a saved position must share."""
        return {
            "the dataset's fingerprint": self.dataset.fingerprint,
            "model": self.model,
            "setting": {**self.config, **self.training.model_dump()},
            "seed": self.seed,
            "device": self.device,
            "--init-from": None if self.warm is None else str(self.warm.path.resolve()),
            "the sha256 of --init-from's run.json": (
                None if self.warm is None else sha256_file(self.warm.path / MARKER)
            ),
        }
