"""One training step: a batch in, better weights out.

Tables with a row per id are touched by row alone (`rows.py`); everything else, small, is trained by torch's
AdamW. Knows nothing of datasets, epochs or files.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from training.batches import Batch
from training.fit.peers import Alone, Peers
from training.fit.rows import BETA_1, BETA_2, EPS, RowAdam, RowState
from training.fit.touched import TouchedRows, vocabulary_inputs, vocabulary_tables
from training.models import CtrModel
from training.models.base import LossTerms
from training.settings import TrainSettings

LOWEST_RATE: Final = 0.02
"""The learning rate falls linearly to this part of its start."""
SMALL_TABLE: Final = 4096
"""Rows below which a table is trained whole: that is cheaper, and comes to the same."""


@dataclass(frozen=True)
class Prepared:
    """A batch as a step takes it: tensors on the host, rows renumbered."""

    inputs: dict[str, Tensor]
    shown: Tensor
    """`[U, N]` bool, which candidates are valid rows."""
    user: Tensor
    """`[U]` int64, whose requests they are."""
    valid: Tensor
    """`[R]` places of the valid rows in the flattened `[U, N]`."""
    clicked: Tensor
    """`[R]` float32."""
    weight: Tensor | None
    """`[R]` float32, or None for all alike."""
    touched: dict[str, Tensor]
    """Distinct table rows `[k]` by vocabulary."""
    total: int
    """Valid rows of the whole batch, those of other processes included."""


class TrainStep:
    """Trains a model batch by batch.

    `prepare` may run in another thread, a batch ahead of `step`; alone, `step(batch)` does both.

    Args:
        model: on `device`, updated in place. Call `settle` before its weights are read.
        settings: learning rate, clipping, decay, precision.
        steps: planned number of steps; the learning rate falls over them.
        device: cpu or cuda.
        seed: of what a model's own loss terms draw.
        peers: the processes that train together.
        occurrences: how often each row occurs in training `[rows]`, by vocabulary; needed for `embedding_l2`.

    """

    def __init__(
        self,
        model: CtrModel,
        settings: TrainSettings,
        *,
        steps: int,
        device: str = "cpu",
        seed: int = 0,
        peers: Peers | None = None,
        occurrences: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        self.model = model
        self.settings = settings
        self.steps = steps
        self.device = device
        self.seed = seed
        self.peers = peers or Alone()
        self._vocabulary = vocabulary_tables(model, at_least=0 if settings.embedding_l2 else SMALL_TABLE)
        parameters = dict(model.named_parameters())
        sizes = {vocabulary: len(parameters[name]) for name, vocabulary in self._vocabulary.items()}
        self._touched = TouchedRows(vocabulary_inputs(model), sizes)
        self.rows = RowAdam({name: parameters[name] for name in self._vocabulary})
        tables = vocabulary_tables(model).keys() - self._vocabulary.keys()
        small = [parameter for name, parameter in parameters.items() if name in tables]
        others = [p for name, p in parameters.items() if name not in tables | self._vocabulary.keys()]
        self._dense = [*small, *others]
        groups: list[dict[str, Any]] = [{"params": small, "weight_decay": 0.0}, {"params": others}]
        self.dense = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=settings.learning_rate,
            betas=(BETA_1, BETA_2),
            eps=EPS,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self._shrink = self._shrinking(occurrences or {})

    @property
    def taken(self) -> int:
        """Steps taken so far."""
        return self.rows.taken

    def rate_of(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.settings.learning_rate * max(LOWEST_RATE, 1 - step / self.steps)

    def prepare(
        self, batch: Batch, *, weight: NDArray[np.float32] | None = None, total: int | None = None
    ) -> Prepared:
        """Return a batch ready for `step`; not for two threads at once.

        Args:
            batch: this process's part.
            weight: `[R]` of the valid rows in the loss.
            total: valid rows of all processes' parts; by default those of this one.

        """
        tensors, touched = self._touched.renumber(batch.tensors)
        valid = np.flatnonzero(batch.valid)
        return Prepared(
            inputs={name: self._host(values) for name, values in tensors.items()},
            shown=self._host(batch.valid),
            user=self._host(batch.user),
            valid=self._host(valid),
            clicked=self._host(batch.clicked.ravel()[valid]),
            weight=None if weight is None else self._host(weight),
            touched={name: self._host(rows) for name, rows in touched.items()},
            total=len(valid) if total is None else total,
        )

    def step(self, batch: Batch | Prepared) -> float:
        """Take one step; returns the click loss, mean over the valid rows of all processes.

        A model's own loss terms train, but are left out of what is returned, so that losses compare between
        models. If one of them is not a number, neither is what is returned, and the weights stay as they were.
        """
        prepared = self.prepare(batch) if isinstance(batch, Batch) else batch
        touched = {name: self._moved(rows) for name, rows in prepared.touched.items()}
        rows = {name: touched[vocabulary] for name, vocabulary in self._vocabulary.items()}
        states = {name: self.rows.gather(name, rows[name]) for name in rows}
        local = {name: state.weight.detach().requires_grad_() for name, state in states.items()}
        self.dense.zero_grad(set_to_none=True)
        losses = self._backward(prepared, local)
        gradients = {name: _gradient_of(weight) for name, weight in local.items()}
        if self.peers.size > 1:
            self.peers.add_up([losses, *self._dense_gradients()])
            for name, gradient in gradients.items():
                rows[name], gradients[name] = self.peers.merge_rows(rows[name], gradient)
                states[name] = self.rows.gather(name, rows[name])
        click_loss, own_loss = losses.tolist()
        if not math.isfinite(click_loss + own_loss):
            return math.nan
        self._clip([*gradients.values(), *(p.grad for p in self._dense if p.grad is not None)])
        self._update(rows, states, gradients)
        return float(click_loss)

    def settle(self) -> None:
        """Bring the whole tables up to date, for reading."""
        self.rows.settle()

    def state_dict(self) -> dict[str, Tensor]:
        """Return model and optimisers as tensors by name: what `load_state_dict` takes; nothing is copied."""
        state = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        state |= {f"rows.{name}": tensor for name, tensor in self.rows.state_dict().items()}
        for index, parameter in enumerate(self._dense):
            kept = self.dense.state.get(parameter, {})
            state |= {f"dense.{index}.{name}": tensor for name, tensor in kept.items()}
        return state | {"random": torch.get_rng_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Stand where `state_dict` was taken."""
        self.model.load_state_dict(_below("model.", state))
        self.rows.load_state_dict(_below("rows.", state))
        dense = {index: _below(f"dense.{index}.", state) for index in range(len(self._dense))}
        groups = self.dense.state_dict()["param_groups"]
        kept = {index: values for index, values in dense.items() if values}
        self.dense.load_state_dict({"state": kept, "param_groups": groups})
        torch.set_rng_state(state["random"])

    def _shrinking(self, occurrences: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
        """Return lambda / n of every row, by table; a bias per ad is not shrunk."""
        if not self.settings.embedding_l2:
            return {}
        return {
            name: self.settings.embedding_l2
            / torch.from_numpy(np.maximum(occurrences[vocabulary], 1)).to(self.device)
            for name, vocabulary in self._vocabulary.items()
            if self.model.get_parameter(name).shape[1] > 1
        }

    def _backward(self, prepared: Prepared, local: dict[str, Tensor]) -> Tensor:
        """Leave gradients in the parameters and in `local`; returns this process's part of both losses, `[2]`.

        The first is the click loss, the second the sum of the model's own terms: means over this process's
        pairs, so they count by its share of all valid rows, whatever the weights of rows say about clicks.
        """
        if not len(prepared.valid):  # more processes than requests in this batch
            return torch.zeros(2, device=self.device)
        inputs = {name: self._moved(tensor) for name, tensor in prepared.inputs.items()}
        losses = LossTerms(self._generator(), self._moved(prepared.shown), self._moved(prepared.user))
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.settings.precision == "bf16"):
            logit_UN = torch.func.functional_call(self.model, local, (inputs, losses))
        logit_R = logit_UN.float().flatten().index_select(0, self._moved(prepared.valid))
        weight_R = None if prepared.weight is None else self._moved(prepared.weight)
        loss = functional.binary_cross_entropy_with_logits(
            logit_R, self._moved(prepared.clicked), weight_R, reduction="sum"
        )
        loss = loss / prepared.total
        own = torch.zeros_like(loss)
        if losses.terms:
            own = torch.stack([term.float() for term in losses.terms.values()]).sum()
            own = own * (len(prepared.valid) / prepared.total)
        (loss + own).backward()  # type: ignore[no-untyped-call]
        return torch.stack([loss, own]).detach()

    def _generator(self) -> torch.Generator:
        """Return this step's generator: a function of seed, process and step, so that --resume draws the same."""
        seeds = np.random.SeedSequence([self.seed, self.peers.rank, self.taken])
        return torch.Generator().manual_seed(int(seeds.generate_state(1)[0]))

    def _dense_gradients(self) -> list[Tensor]:
        """Return all dense gradients; a parameter that this process did not use has one of zeros."""
        for parameter in self._dense:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in self._dense if parameter.grad is not None]

    def _clip(self, gradients: list[Tensor]) -> None:
        """Scale all gradients together to a norm of at most `gradient_clip`."""
        norm = torch.nn.utils.get_total_norm(gradients)
        scale = torch.clamp(self.settings.gradient_clip / (norm + 1e-6), max=1.0)
        for gradient in gradients:
            gradient.mul_(scale)

    @torch.no_grad()
    def _update(
        self, rows: dict[str, Tensor], states: dict[str, RowState], gradients: dict[str, Tensor]
    ) -> None:
        rate = self.rate_of(self.taken)
        for group in self.dense.param_groups:
            group["lr"] = rate
        self.dense.step()
        self.rows.begin(rate)
        for name, gradient in gradients.items():
            if name in self._shrink:
                kept = 1 - rate * self._shrink[name].index_select(0, rows[name]).unsqueeze(1)
                states[name].weight.mul_(kept.clamp(min=0.0))  # to shrink is never to turn round
            self.rows.update(name, rows[name], states[name], gradient)

    def _host(self, values: NDArray[Any]) -> Tensor:
        """Return an array as a tensor from which a GPU can read while the host goes on."""
        tensor = torch.from_numpy(values)
        return tensor.pin_memory() if self.device == "cuda" else tensor

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)


def _gradient_of(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
