"""The shared embedding of ads and behaviours, and the small embeddings around it.

One table per vocabulary. An ad vector is the sum of its matched fields' rows, a behaviour vector the sum of
the same tables' rows, so an ad and a behaviour that agree in a field agree in that summand. (Concatenated
slices of D / fields columns each gave TIN a test GAUC of .683 on the demo task where the sum gives .767:
few columns can't tell 28,000 products apart.) Row 0 of every table is zero and stays zero.

U requests, N candidate ads, L behaviours, D width of an ad or behaviour vector, R and C widths of what is
known per request and per candidate, w width of one table.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from contract.errors import InputError
from training.models.features import FeatureSpec, FieldSpec

SMALL_WIDTH: Final = 8
INIT_STD: Final = 0.15
"""Of table rows: at .05 attention starts too flat to learn from, at .6 too sharp to change (TIN, demo task)."""


def table_widths(features: FeatureSpec, embedding_width: int) -> dict[str, int]:
    """Return the width of every vocabulary's table: D if a pair or behaviours alone use it, else SMALL_WIDTH.

    Raises:
        InputError: no ad field matches a behaviour field.

    """
    if not features.pairs:
        raise InputError("no categorical ad field matches a behavior field; give one `matches` in the schema")
    paired = {field.vocabulary for field, _ in features.pairs}
    others = {field.vocabulary for field in (*features.ad, *features.user, *features.context)}
    every = (*features.behavior, *features.ad, *features.user, *features.context)
    return {
        field.vocabulary: SMALL_WIDTH if field.vocabulary in others - paired else embedding_width
        for field in every
        if field.vocabulary is not None
    }


def padded_table(rows: int, width: int) -> nn.Embedding:
    """Return a table whose row 0 is zero and gets no gradient."""
    table = nn.Embedding(rows, width, padding_idx=0)
    nn.init.normal_(table.weight, std=INIT_STD)
    with torch.no_grad():
        table.weight[0].zero_()
    return table


class FeatureEmbedding(nn.Module):
    """Every categorical row and numeric value of a request as vectors."""

    def __init__(self, features: FeatureSpec, embedding_width: int) -> None:
        super().__init__()
        self.features = features
        self.width = embedding_width
        self.table_widths = table_widths(features, embedding_width)
        self.table = nn.ModuleDict(
            # the prefix keeps a vocabulary called "items" apart from ModuleDict.items
            {
                f"v_{name}": padded_table(features.vocabulary_rows[name], w)
                for name, w in self.table_widths.items()
            }
        )
        self.project = nn.ModuleDict()
        self.slope = nn.ParameterDict()
        for field in features.unmatched_behavior:
            if field.kind == "numeric":
                self.slope[f"b_{field.name}"] = nn.Parameter(torch.randn(embedding_width) * INIT_STD)
            elif self._is_projected(field):
                w = self.table_widths[str(field.vocabulary)]
                self.project[f"b_{field.name}"] = nn.Linear(w, embedding_width, bias=False)
        self.action = (
            padded_table(features.action_rows, embedding_width) if features.action_rows > 2 else None
        )
        self.candidate_width = self._width_of(features.unmatched_ad) + self._width_of(features.context)
        self.request_width = self._width_of(features.user)

    @property
    def history_inputs(self) -> tuple[str, ...]:
        """Tensors that `history` takes."""
        names = tuple(f"history_{field.name}" for field in self.features.behavior)
        return (*names, "history_action") if self.action is not None else names

    @property
    def other_inputs(self) -> tuple[str, ...]:
        """Tensors that `ads`, `candidate` and `request` take."""
        groups = (("ad", self.features.ad), ("user", self.features.user), ("context", self.features.context))
        return tuple(f"{group}_{field.name}" for group, fields in groups for field in fields)

    def history(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return `k_ULD`, the behaviour vectors; a padded position is zero if all its inputs are."""
        k_ULD = _sum([self._rows(b, inputs[f"history_{b.name}"]) for _, b in self.features.pairs])
        for field in self.features.unmatched_behavior:
            k_ULD = k_ULD + self._added(field, inputs[f"history_{field.name}"])
        if self.action is not None:
            k_ULD = k_ULD + self.action(inputs["history_action"])
        return k_ULD

    def ads(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return `q_UND`, the ad vectors."""
        return _sum([self._rows(ad, inputs[f"ad_{ad.name}"]) for ad, _ in self.features.pairs])

    def candidate(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Return what else is known per candidate, as parts `[U, N, w]` of total width `candidate_width`."""
        return [
            *self._parts("ad", self.features.unmatched_ad, inputs),
            *self._parts("context", self.features.context, inputs),
        ]

    def request(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Return what is known of the user, as parts `[U, w]` of total width `request_width`."""
        return self._parts("user", self.features.user, inputs)

    def candidate_mask(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return `mask_UN`: True where any ad field has a row; padded candidates have none."""
        rows = [inputs[f"ad_{field.name}"] for field in self.features.ad if field.kind == "categorical"]
        return torch.stack(rows).ne(0).any(0)

    def _parts(self, group: str, fields: Sequence[FieldSpec], inputs: Mapping[str, Tensor]) -> list[Tensor]:
        return [
            inputs[f"{group}_{field.name}"].unsqueeze(-1)
            if field.kind == "numeric"
            else self._rows(field, inputs[f"{group}_{field.name}"])
            for field in fields
        ]

    def _rows(self, field: FieldSpec, rows: Tensor) -> Tensor:
        vectors: Tensor = self.table[f"v_{field.vocabulary}"](rows)
        return vectors

    def _added(self, field: FieldSpec, values: Tensor) -> Tensor:
        """Return the `[U, L, D]` that an unmatched behaviour field adds to the behaviour vector."""
        if field.kind == "numeric":
            added: Tensor = values.unsqueeze(-1) * self.slope[f"b_{field.name}"]
            return added
        vectors = self._rows(field, values)
        if self._is_projected(field):
            projected: Tensor = self.project[f"b_{field.name}"](vectors)
            return projected
        return vectors

    def _is_projected(self, field: FieldSpec) -> bool:
        """Tell whether the field shares a small table with users, context or unmatched ad fields."""
        return field.vocabulary is not None and self.table_widths[field.vocabulary] != self.width

    def _width_of(self, fields: Sequence[FieldSpec]) -> int:
        return sum(1 if f.kind == "numeric" else self.table_widths[str(f.vocabulary)] for f in fields)


def _sum(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
