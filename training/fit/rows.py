"""Adam for tables of which a step touches few rows: the result of dense Adam at the price of those rows.

Dense Adam also moves rows that a batch does not touch: their momentum runs on while it fades. That motion has
a closed form. After its last gradient at step s a row with moments m, v moves at every later step j by

    c_j b1^(j-s) m / (b2^((j-s)/2) sqrt(v) + e),    c_j = lr_j sqrt(1 - b2^j) / (1 - b1^j),

so up to step t by m / (sqrt(v) + e) times P[s] = sum_{s<j<=t} c_j (b1 / sqrt(b2))^(j-s). P is one short list
for all tables; a row's debt is paid when it's next touched, and by `settle` before the tables are read. (Kingma
and Ba, Adam, ICLR 2015.) The sum is taken as if e shrank with sqrt(v). That is below float noise where gradients
are far larger than e; a row whose gradients are near e goes about 1 % of its way elsewhere.

R table rows, k touched rows, D width.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

BETA_1: Final = 0.9
BETA_2: Final = 0.999
EPS: Final = 1e-8

_FADE: Final = BETA_1 / math.sqrt(BETA_2)
_WINDOW: Final = 320  # steps after which momentum has faded: _FADE^320 is 3e-15
_MEAN_AGE: Final = 10  # steps after the last gradient, at which half of the motion is done
_LONGEST_FIRST: Final = 500  # b1^500 = 1e-23: zero, before float32 becomes denormal and slow
_LONGEST_SECOND: Final = 40_000  # b2^40000 = 4e-18
_SETTLED_AT_ONCE: Final = 1 << 17  # rows


@dataclass
class RowState:
    """The touched rows of one table, up to date; `weight` is what the forward pass reads."""

    weight: Tensor
    """`[k, D]`"""
    first: Tensor
    """`[k, D]`"""
    second: Tensor
    """`[k, D]`"""


class _Table:
    """One table with its moments, each row as it was when it was last touched."""

    def __init__(self, weight: nn.Parameter) -> None:
        self.weight = weight.detach()
        self.first, self.second = _zeros_like(self.weight), _zeros_like(self.weight)
        self.last = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
        """`[R]` the step that touched the row last; 0 = none yet."""


class RowAdam:
    """Adam over tables, by touched rows.

    Args:
        tables: parameters `[R, D]` by name; updated in place, never through autograd.

    """

    def __init__(self, tables: Mapping[str, nn.Parameter]) -> None:
        self._tables = {name: _Table(parameter) for name, parameter in tables.items()}
        self.taken = 0
        device = next((table.weight.device for table in self._tables.values()), torch.device("cpu"))
        self._fading = torch.tensor(
            [_FADE**i for i in range(_WINDOW, 0, -1)], dtype=torch.float64, device=device
        )
        self._owed = torch.zeros(1024, dtype=torch.float64, device=device)
        """P of the docstring, by step."""

    def gather(self, name: str, rows: Tensor) -> RowState:
        """Return rows `[k]` (distinct) of a table as dense Adam would have them by now."""
        table = self._tables[name]
        return self._up_to_date(
            table.weight.index_select(0, rows),
            table.first.index_select(0, rows),
            table.second.index_select(0, rows),
            table.last.index_select(0, rows),
        )

    def begin(self, learning_rate: float) -> None:
        """Count one more step; `update` then belongs to it."""
        self.taken += 1
        step = self.taken
        if step >= len(self._owed):
            self._owed = torch.cat([self._owed, torch.zeros_like(self._owed)])
        root = math.sqrt(1 - BETA_2**step)
        self._size = learning_rate * root / (1 - BETA_1**step)
        self._eps = EPS * root
        reach = min(_WINDOW, step)
        self._owed[step - reach : step].add_(self._fading[_WINDOW - reach :], alpha=self._size)

    def update(self, name: str, rows: Tensor, state: RowState, gradient: Tensor) -> None:
        """Take the step for rows `[k]`: `state` as `gather` gave it before `begin`, gradient `[k, D]`."""
        table = self._tables[name]
        state.first.lerp_(gradient, 1 - BETA_1)
        state.second.mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
        state.weight.addcdiv_(state.first, state.second.sqrt().add_(self._eps), value=-self._size)
        table.weight.index_copy_(0, rows, state.weight)
        table.first.index_copy_(0, rows, state.first)
        table.second.index_copy_(0, rows, state.second)
        table.last.index_fill_(0, rows, self.taken)

    def settle(self) -> None:
        """Bring every row that was ever touched up to date: what the tables then hold is dense Adam's."""
        for name, table in self._tables.items():
            for begin in range(0, len(table.last), _SETTLED_AT_ONCE):
                last = table.last[begin : begin + _SETTLED_AT_ONCE]
                rows = torch.nonzero((last > 0) & (last < self.taken)).squeeze(1) + begin
                if not len(rows):
                    continue
                state = self.gather(name, rows)
                table.weight.index_copy_(0, rows, state.weight)
                table.first.index_copy_(0, rows, state.first)
                table.second.index_copy_(0, rows, state.second)
                table.last.index_fill_(0, rows, self.taken)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what `load_state_dict` needs beside the tables themselves; views, nothing is copied."""
        state = {"owed": self._owed, "taken": torch.tensor(self.taken)}
        for name, table in self._tables.items():
            state |= {
                f"first.{name}": table.first,
                f"second.{name}": table.second,
                f"last.{name}": table.last,
            }
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state_dict` was taken."""
        self.taken = int(state["taken"])
        self._owed = state["owed"].to(self._owed.device)
        for name, table in self._tables.items():
            table.first.copy_(state[f"first.{name}"])
            table.second.copy_(state[f"second.{name}"])
            table.last.copy_(state[f"last.{name}"])

    def _up_to_date(self, weight: Tensor, first: Tensor, second: Tensor, last: Tensor) -> RowState:
        owed = self._owed.index_select(0, last).to(weight.dtype)
        if not self.taken:
            return RowState(weight, first, second)
        eps = EPS * (1 - _power(BETA_2, last + _MEAN_AGE, _LONGEST_SECOND)).sqrt().to(weight.dtype)
        weight.addcdiv_(first * owed.unsqueeze(1), second.sqrt().add_(eps.unsqueeze(1)), value=-1.0)
        missed = (self.taken - last).to(weight.dtype)
        first.mul_(_power(BETA_1, missed, _LONGEST_FIRST).unsqueeze(1))
        second.mul_(_power(BETA_2, missed, _LONGEST_SECOND).unsqueeze(1))
        return RowState(weight, first, second)


def _power(base: float, exponent: Tensor, longest: int) -> Tensor:
    """Return base^exponent `[k]`, 0 beyond `longest`."""
    return torch.exp(exponent * math.log(base)) * (exponent <= longest)


def _zeros_like(weight: Tensor) -> Tensor:
    """Return zeros; on the CPU their pages are made real row by row, as they're touched."""
    if weight.device.type != "cpu":
        return torch.zeros_like(weight)
    return torch.from_numpy(np.zeros(tuple(weight.shape), dtype=weight.detach().numpy().dtype))
