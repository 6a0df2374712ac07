"""Fits a model: epochs, validation, the best weights, early stopping; from any step on to the same end.

The order of an epoch's batches depends on the generator's state at its start, so that state and a number of
batches are a position. Every process of a training runs this; the first alone has a work folder and writes.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from training.batches import BatchSource, training_order
from training.dataset import Dataset
from training.fit.peers import Peers
from training.fit.position import Position, Sums
from training.fit.step import Prepared, TrainStep
from training.fit.stop import StopFlag, StoppedError
from training.fit.work import WorkFolder
from training.models import CtrModel
from training.scoring import Progress, score_requests, split_metrics
from training.settings import TrainSettings

STEP_LINES: Final = 100
"""Lines of `metrics.jsonl` about steps in a whole training: so many, or up to twice as many."""
_QUIET_S: Final = 1.0  # between progress reports


@dataclass(frozen=True)
class Material:
    """What a model is fitted to."""

    dataset: Dataset
    source: BatchSource
    weights: NDArray[np.float32] | None
    """Per impression row, in the loss; None for all alike."""

    def count(self, settings: TrainSettings) -> int:
        """Return the number of batches of an epoch."""
        return math.ceil(len(self.dataset.requests_of("train")) / settings.requests_per_batch)


class Trainer:
    """Fits one model; `fit` does it all.

    Args:
        material: what to fit to.
        step: takes the steps.
        work: the work folder, None in every process but the first.
        identity: what a training that resumes must share.
        seed: of the order of batches.
        stop: set by a signal.
        report: progress.
        save_every_s: seconds between saved positions.

    """

    def __init__(
        self,
        material: Material,
        step: TrainStep,
        *,
        work: WorkFolder | None,
        identity: Mapping[str, object],
        seed: int,
        stop: StopFlag,
        report: Progress,
        save_every_s: float,
    ) -> None:
        self.material = material
        self.step = step
        self.settings: TrainSettings = step.settings
        self._work = work
        self._identity = identity
        self._stop = stop
        self._report = report
        self._save_every_s = save_every_s
        self._generator = np.random.default_rng(seed)
        self._peers: Peers = step.peers
        self._began = self._saved = time.perf_counter()
        self._chosen = material.dataset.requests_of("train")
        self._validation = material.dataset.requests_of("validation")
        self._row_counts = np.asarray(material.dataset.requests["rows"])
        self.at = Position(self._order_state())

    @property
    def model(self) -> CtrModel:
        """The model, with the weights of the last step."""
        return self.step.model

    @property
    def seconds(self) -> float:
        """Spent on this training, by those that it was resumed from too."""
        return self.at.seconds + time.perf_counter() - self._began

    def resume(self, position: Mapping[str, Any], journal_bytes: int, state: Mapping[str, Tensor]) -> None:
        """Go on where `WorkFolder.save` was called."""
        if self._work is not None:
            self._work.rewind(journal_bytes)
        self.at = Position.of(position)
        if self.at.stopped is None:
            self._generator.bit_generator.state = self.at.order_state
            self.step.load_state_dict(state)

    def fit(self) -> None:
        """Train until the last epoch, until validation stops improving, or until the loss is not a number.

        Raises:
            StoppedError: a signal came; the position is saved.

        """
        while self.at.stopped is None:
            started = time.perf_counter()
            loss = self._epoch(started)
            self.at.epoch_seconds += time.perf_counter() - started
            if not math.isfinite(loss) or not self._validate(loss):
                self.at.failure = self.at.stopped = (
                    f"the loss is not a number in epoch {self.at.epoch + 1}; try a smaller learning_rate"
                )
                return
            self._next_epoch()
            self._save()
            if self._peers.any(self._stop.asked):
                self._raise_stopped()

    def _next_epoch(self) -> None:
        """Decide whether there is another epoch, and stand before it."""
        at, settings = self.at, self.settings
        if at.epoch + 1 >= settings.epochs:
            at.stopped = "last epoch"
        elif at.epoch - at.best_epoch >= settings.patience:
            at.stopped = f"validation GAUC did not rise for {settings.patience} epoch(s)"
        at.epoch, at.batch, at.epoch_seconds, at.epoch_loss = at.epoch + 1, 0, 0.0, Sums()
        at.order_state = self._order_state()

    def _epoch(self, started: float) -> float:
        """Take the steps that the epoch still lacks; returns its mean loss, NaN as soon as one is."""
        at, reported = self.at, 0.0
        self.model.train()
        order = training_order(
            self.material.source,
            self._chosen,
            requests=self.settings.requests_per_batch,
            generator=self._generator,
        )
        for prepared in ahead(self._prepare, order[at.batch :]):
            loss = self.step.step(prepared)
            if not math.isfinite(loss):
                return math.nan
            at.batch += 1
            at.epoch_loss.add(loss, prepared.total)
            at.line_loss.add(loss, prepared.total)
            self._write_step_line(len(order))
            if time.perf_counter() - reported > _QUIET_S or at.batch == len(order):
                reported = time.perf_counter()
                done = min(at.batch * self.settings.requests_per_batch, len(self._chosen))
                self._report(done, len(self._chosen), f"epoch {at.epoch + 1}, loss {at.epoch_loss.mean:.4f}")
            self._between_steps(started)
        self.step.settle()
        return at.epoch_loss.mean

    def _prepare(self, chosen: NDArray[np.int64]) -> Prepared:
        """Return this process's part of a batch; called a batch ahead, in a thread."""
        batch = self.material.source.batch(self._peers.share(chosen), serving=False)
        weights = self.material.weights
        return self.step.prepare(
            batch,
            weight=None if weights is None else weights[batch.row[batch.valid]],
            total=int(self._row_counts[chosen].sum()),
        )

    def _between_steps(self, started: float) -> None:
        """Save the position if it is time, or if a signal came."""
        stopping = self._peers.any(self._stop.asked)
        if stopping or time.perf_counter() - self._saved >= self._save_every_s:
            self._save(started)
        if stopping:
            self._raise_stopped()

    def _save(self, started: float | None = None) -> None:
        """Save the position; `started` is when this process began with the epoch, None between epochs."""
        self._saved = now = time.perf_counter()
        if self._work is None:
            return
        position = asdict(self.at) | {"seconds": self.seconds}
        if started is not None:
            position["epoch_seconds"] += now - started
        # After the end nothing but the best weights is asked for, and they have a file of their own.
        self._work.save(self._identity, position, self.step.state_dict() if self.at.stopped is None else {})
        self._work.forget_others(self.at.best_epoch)

    def _raise_stopped(self) -> None:
        raise StoppedError(
            f"stopped after {self.step.taken} steps; --resume goes on from there",
            number=self._stop.number or 0,
        )

    def _write_step_line(self, batches: int) -> None:
        at = self.at
        total = batches * self.settings.epochs
        if self.step.taken % max(1, total // STEP_LINES) or self._work is None:
            return
        self._work.write_line(
            {
                "step": self.step.taken,
                "epoch": at.epoch,
                "loss": at.line_loss.mean,
                "learning_rate": self.step.rate_of(self.step.taken - 1),
            }
        )
        at.line_loss = Sums()

    def _validate(self, loss: float) -> bool:
        """Score validation and keep the weights if they are the best; False where a score is not a number."""
        at, started = self.at, time.perf_counter()
        rows, logit = self._scores()
        if not np.isfinite(logit).all():  # the last step spoilt the weights, and no later loss shows it
            return False
        metrics = split_metrics(self.material.dataset, rows, logit)
        better = at.is_best(metrics)
        if self._work is None:
            return True
        if better:
            self._work.save_best(at.epoch, self.model.state_dict())
        seconds = at.epoch_seconds + time.perf_counter() - started
        self._work.write_line(
            epoch_line(at.epoch, loss, metrics, train_seconds=at.epoch_seconds, seconds=seconds)
        )
        return True

    def _scores(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return validation rows, ascending, and their logits; every process scores a part."""

        def report(done: int, total: int | None, label: str) -> None:
            if self._stop.asked and self._peers.size == 1:
                self._save()
                self._raise_stopped()
            self._report(done, total, label)

        parts = [self._validation[rank :: self._peers.size] for rank in range(self._peers.size)]
        mine = self._peers.share(self._validation)
        _, logit = score_requests(self.model, self.material.source, mine, progress=report, label="validation")
        rows = [np.sort(self.material.dataset.rows_of(part)) for part in parts]
        logits = self._peers.collect(logit, [len(part) for part in rows])
        row, every = np.concatenate(rows), np.concatenate(logits)
        order = np.argsort(row)
        return row[order], every[order]

    def _order_state(self) -> dict[str, Any]:
        return dict(self._generator.bit_generator.state)


def epoch_line(
    epoch: int, loss: float, metrics: Mapping[str, Any], *, train_seconds: float, seconds: float
) -> dict[str, object]:
    """Return the line of `metrics.jsonl` about an epoch."""
    return {
        "epoch": epoch,
        "train_loss": None if math.isnan(loss) else loss,
        "train_seconds": train_seconds,
        "seconds": seconds,
        "validation": {name: metrics[name] for name in ("auc", "gauc", "log_loss")},
    }


def ahead(
    prepare: Callable[[NDArray[np.int64]], Prepared], order: list[NDArray[np.int64]]
) -> Iterator[Prepared]:
    """Yield the batches, each prepared while the one before it is trained on."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting = [pool.submit(prepare, chosen) for chosen in order[:1]]
        for following in order[1:]:
            ready = waiting.pop().result()
            waiting.append(pool.submit(prepare, following))
            yield ready
        for last in waiting:
            yield last.result()
