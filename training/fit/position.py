"""Where a training stands: plain counters, so that they can be kept as JSON."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass
class Sums:
    """A loss in the making."""

    loss: float = 0.0
    rows: int = 0

    def add(self, loss: float, rows: int) -> None:
        """Count a batch of `rows` rows with this mean loss."""
        self.loss += loss * rows
        self.rows += rows

    @property
    def mean(self) -> float:
        """NaN before the first batch."""
        return self.loss / self.rows if self.rows else math.nan


@dataclass
class Position:
    """Where a training is, all but weights and optimiser."""

    order_state: dict[str, Any]
    """Of the generator, before the epoch's order was drawn."""
    epoch: int = 0
    batch: int = 0
    """Batches of this epoch that are done."""
    epoch_loss: Sums = field(default_factory=Sums)
    line_loss: Sums = field(default_factory=Sums)
    """Since the last line of `metrics.jsonl`."""
    epoch_seconds: float = 0.0
    """Spent on this epoch's steps before this process took over."""
    seconds: float = 0.0
    """Spent on this training before this process took over."""
    best_epoch: int = -1
    best_score: float | None = None
    """Validation GAUC of the best epoch (minus the log loss where no GAUC is defined)."""
    stopped: str | None = None
    """Why training ended."""
    failure: str | None = None
    """The same, where that was an accident."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Read what `dataclasses.asdict` and JSON made of one."""
        sums = {name: Sums(**values[name]) for name in ("epoch_loss", "line_loss")}
        return cls(**{**values, **sums})

    def is_best(self, metrics: Mapping[str, Any]) -> bool:
        """Tell whether these validation metrics are the best so far, and if so remember this epoch."""
        score = metrics["gauc"] if metrics["gauc"] is not None else -metrics["log_loss"]
        if self.best_score is not None and score <= self.best_score:
            return False
        self.best_score, self.best_epoch = float(score), self.epoch
        return True
