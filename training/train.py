"""`longsight train`: a dataset becomes a run folder."""

import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from contract.encoder import Encoder
from contract.errors import InputError, LongsightError
from contract.files import atomic_folder, write_json_atomic
from training.batches import Batch, BatchSource, training_order
from training.calibration import Calibration, fit_calibration
from training.dataset import Dataset
from training.fitting import fit_encoder
from training.models import CtrModel, build_model
from training.models.popularity import Popularity
from training.provenance import provenance
from training.run import FORMAT, MARKER, feature_spec, write_encoder
from training.scoring import Progress, inputs_of, score_requests, split_metrics
from training.settings import TrainSettings, resolve_settings
from training.weights import loss_weights, recency, row_weights

Write = Callable[[str], object]
"""Takes a line of `metrics.jsonl`."""

_QUIET: Final = 1.0  # seconds between progress reports


def train(
    dataset: Path,
    run: Path,
    *,
    model: str,
    config_path: Path | None = None,
    settings: dict[str, object] | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a model and write its run folder; returns the record kept in `run.json`.

    Args:
        dataset: a dataset folder.
        run: the folder to write; it appears under this name once it is whole.
        model: din, tin, mean_pool or popularity.
        config_path: a TOML file of settings.
        settings: `--set`, over the file, over the schema's `[train]`, over the model's defaults.
        seed: of initialisation and order; the same seed on the same machine gives the same run.
        device: cpu or cuda.
        progress: called with (done, total, label).

    Raises:
        DatasetError, SchemaError, InputError: what was given is wrong.
        LongsightError: the loss stopped being a number. If an epoch had been finished by then, the run
            folder holds its checkpoint and says so in `run.json` under `stopped`.

    """
    opened = Dataset.open(dataset)
    training, config = resolve_settings(
        model, schema=opened.schema.train, config_path=config_path, given=settings or {}
    )
    _check_device(device)
    torch.manual_seed(seed)
    encoder = fit_encoder(opened, history_length=training.history_length)
    built = build_model(model, feature_spec(encoder), config, history_length=training.history_length)
    source = BatchSource(opened, encoder, built.inputs)
    trainer = _Trainer(
        opened, built.to(device), source, settings=training, seed=seed, device=device, progress=progress
    )
    with atomic_folder(run, marker=MARKER) as folder:
        started = time.perf_counter()
        with (folder / "metrics.jsonl").open("w", encoding="utf-8", buffering=1) as journal:
            trainer.fit(journal.write)
        record = _finish(folder, trainer, encoder, model=model, config=config)
        record |= {
            "seconds": time.perf_counter() - started,
            "provenance": provenance(seed=seed, dataset_fingerprint=opened.fingerprint),
        }
        write_json_atomic(folder / MARKER, record)
    if trainer.failure is not None:
        raise LongsightError(
            f"{run}: {trainer.failure}; kept the checkpoint of epoch {trainer.best.epoch + 1}"
        )
    return record


@dataclass
class _Best:
    """The best checkpoint so far, by validation GAUC."""

    gauc: float = -math.inf
    epoch: int = -1
    weights: dict[str, torch.Tensor] = field(default_factory=dict)


class _Trainer:
    """Fits one model: epochs, early stopping, the best checkpoint."""

    def __init__(
        self,
        dataset: Dataset,
        model: CtrModel,
        source: BatchSource,
        *,
        settings: TrainSettings,
        seed: int,
        device: str,
        progress: Progress | None,
    ) -> None:
        self.dataset = dataset
        self.model = model
        self.source = source
        self.settings = settings
        self.device = device
        self.best = _Best()
        self.stopped = "last epoch"
        self.failure: str | None = None
        self.report = progress or (lambda _done, _total, _label: None)
        self._generator = np.random.default_rng(seed)
        self._chosen = dataset.requests_of("train")
        self._validation = dataset.requests_of("validation")
        self._weights = loss_weights(dataset)

    def fit(self, write: Write) -> None:
        """Train until the last epoch, until validation GAUC stops rising, or until the loss is not a number."""
        if isinstance(self.model, Popularity):
            self._count(self.model)
            self._finish_epoch(0, math.nan, time.perf_counter(), write)
            return
        batches = math.ceil(len(self._chosen) / self.settings.requests_per_batch)
        optimizer = self._optimizer()
        total = max(1, batches * self.settings.epochs)
        schedule = LambdaLR(optimizer, lambda step: max(0.02, 1 - step / total))
        for epoch in range(self.settings.epochs):
            started = time.perf_counter()
            loss = self._epoch(epoch, optimizer, schedule)
            if not math.isfinite(loss):
                self._give_up(epoch)
                return
            if not self._finish_epoch(epoch, loss, started, write):
                self._give_up(epoch)
                return
            if epoch - self.best.epoch >= self.settings.patience:
                self.stopped = f"validation GAUC did not rise for {self.settings.patience} epoch(s)"
                return

    def _count(self, model: Popularity) -> None:
        """Fit a model that only counts clicks."""
        rows = self.dataset.rows_of(self._chosen)
        ad_rows = self.source.ad_rows(model.inputs[0], rows)
        clicked = np.asarray(self.dataset.row("clicked"))[rows]
        model.fit_counts(ad_rows, clicked, row_weights(self.dataset, rows))

    def _optimizer(self) -> torch.optim.Optimizer:
        """Return Adam with decoupled decay of everything but the tables."""
        named = list(self.model.named_parameters())
        tables = [parameter for name, parameter in named if "table" in name]
        dense = [parameter for name, parameter in named if "table" not in name]
        groups: list[dict[str, Any]] = [{"params": tables, "weight_decay": 0.0}, {"params": dense}]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )

    def _epoch(self, epoch: int, optimizer: torch.optim.Optimizer, schedule: LRScheduler) -> float:
        """Run one pass over the training split; returns the mean loss, NaN as soon as one is."""
        self.model.train()
        order = training_order(
            self.source, self._chosen, requests=self.settings.requests_per_batch, generator=self._generator
        )
        total, weight, done, reported = 0.0, 0.0, 0, 0.0
        for batch in _ahead(self.source, order):
            loss, rows = self._step(batch, optimizer)
            if not math.isfinite(loss):
                return math.nan
            schedule.step()
            total, weight, done = total + loss * rows, weight + rows, done + len(batch.row)
            if time.perf_counter() - reported > _QUIET:
                reported = time.perf_counter()
                self.report(done, len(self._chosen), f"epoch {epoch + 1}, loss {total / weight:.4f}")
        self.report(len(self._chosen), len(self._chosen), f"epoch {epoch + 1}, loss {total / weight:.4f}")
        return total / weight

    def _step(self, batch: Batch, optimizer: torch.optim.Optimizer) -> tuple[float, int]:
        inputs = {name: tensor.to(self.device) for name, tensor in inputs_of(batch).items()}
        valid_UN = torch.from_numpy(batch.valid).to(self.device)
        clicked = torch.from_numpy(batch.clicked).to(self.device)[valid_UN]
        weight = None
        if self._weights is not None:
            weight = torch.from_numpy(self._weights[batch.row[batch.valid]]).to(self.device)
        logit = self.model(inputs)[valid_UN]
        loss = functional.binary_cross_entropy_with_logits(logit, clicked, weight)
        if not math.isfinite(value := loss.item()):
            return value, len(logit)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip)
        optimizer.step()
        return value, len(logit)

    def _finish_epoch(self, epoch: int, loss: float, started: float, write: Write) -> bool:
        """Validate and keep the weights if they are the best; False where a score is not a number."""
        trained = time.perf_counter() - started
        rows, logit = score_requests(
            self.model.to("cpu"), self.source, self._validation, progress=self.report, label="validation"
        )
        self.model.to(self.device)
        if not np.isfinite(logit).all():  # the last step spoilt the weights, and no later loss shows it
            return False
        metrics = split_metrics(self.dataset, rows, logit)
        gauc = metrics["gauc"] if metrics["gauc"] is not None else -metrics["log_loss"]
        if gauc > self.best.gauc:
            weights = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
            self.best = _Best(gauc, epoch, weights)
        line = {
            "epoch": epoch,
            "train_loss": None if math.isnan(loss) else loss,
            "train_seconds": trained,
            "seconds": time.perf_counter() - started,
            "validation": {name: metrics[name] for name in ("auc", "gauc", "log_loss")},
        }
        write(json.dumps(line) + "\n")
        return True

    def _give_up(self, epoch: int) -> None:
        message = f"the loss is not a number in epoch {epoch + 1}; try a smaller learning_rate"
        if self.best.epoch < 0:
            raise LongsightError(f"{self.dataset.path}: {message}; nothing was written")
        self.stopped = self.failure = message


def _ahead(source: BatchSource, order: list[NDArray[np.int64]]) -> Iterator[Batch]:
    """Yield the batches, each prepared while the one before it is trained on."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting = pool.submit(source.batch, order[0], serving=False)
        for following in order[1:]:
            ready, waiting = waiting.result(), pool.submit(source.batch, following, serving=False)
            yield ready
        yield waiting.result()


def _finish(
    folder: Path, trainer: _Trainer, encoder: Encoder, *, model: str, config: dict[str, Any]
) -> dict[str, Any]:
    """Write the best weights and the encoder, calibrate, and return the record of the run."""
    dataset, settings, best = trainer.dataset, trainer.settings, trainer.best
    trainer.model.to("cpu").load_state_dict(best.weights)
    torch.save(best.weights, folder / "checkpoint.pt")
    calibration, metrics = _calibrate(trainer)
    return {
        "format": FORMAT,
        "model": model,
        "config": config,
        "settings": settings.model_dump(),
        "history_length": settings.history_length,
        "history_lag_s": dataset.history_lag_s,
        "dataset": str(dataset.path.resolve()),
        "schema": dataset.schema.to_json(),
        "transforms": write_encoder(folder, encoder, dataset),
        "calibration": asdict(calibration),
        "sampling": dataset.manifest["sampling"],
        "best_epoch": best.epoch,
        "stopped": trainer.stopped,
        "metrics": {"validation": metrics},
    }


def _calibrate(trainer: _Trainer) -> tuple[Calibration, dict[str, Any]]:
    """Fit the calibration on validation; returns it with the calibrated metrics there."""
    dataset = trainer.dataset
    chosen = dataset.requests_of("validation")
    rows, raw = score_requests(
        trainer.model, trainer.source, chosen, progress=trainer.report, label="calibration"
    )
    clicked = np.asarray(dataset.row("clicked")[rows])
    half_life_days = trainer.settings.calibration_half_life_days
    weights = row_weights(dataset, rows) * recency(dataset, rows, half_life_days)
    calibration = fit_calibration(raw, clicked, weights)
    return calibration, split_metrics(dataset, rows, calibration.apply(raw))


def _check_device(device: str) -> None:
    if device not in {"cpu", "cuda"}:
        raise InputError(f"--device {device}: must be cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda: torch sees no CUDA device here; install a CUDA build or use --device cpu"
        )
