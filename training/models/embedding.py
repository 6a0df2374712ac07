"""The shared embedding of ads and behaviours, and the small embeddings around it.

One table per vocabulary. The matched (ad, behaviour) pairs fill a vector of width D together, so an ad and a
behaviour that agree in a field agree in that slice of the vector. Row 0 of every table is zero and stays zero.

U requests, N candidate ads, L behaviours, D width of an ad or behaviour vector, R and C widths of what is
known per request and per candidate, w width of one table.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from contract.errors import InputError
from training.models.features import FeatureSpec, FieldSpec

SMALL_WIDTH = 8
INIT_STD = 0.05


def table_widths(features: FeatureSpec, embedding_width: int) -> dict[str, int]:
    """Return the width of every vocabulary's table: the pairs share D as evenly as they can.

    A vocabulary of no pair has `SMALL_WIDTH`, or D where only behaviours use it.

    Raises:
        InputError: no pair, or no split of D gives fields of one vocabulary the same width.

    """
    uses: dict[str, int] = {}
    for ad, _ in features.pairs:
        uses[str(ad.vocabulary)] = uses.get(str(ad.vocabulary), 0) + 1
    count = sum(uses.values())
    if not count:
        raise InputError("no categorical ad field matches a behavior field; give one `matches` in the schema")
    if embedding_width < count:
        raise InputError(
            f"embedding_width {embedding_width} is less than the {count} matched fields; use {count}"
        )
    widths = dict.fromkeys(uses, embedding_width // count)
    rest = embedding_width % count
    for name in sorted(uses, key=lambda name: -uses[name]):  # stable: first fields first
        if uses[name] <= rest:
            widths[name] += 1
            rest -= uses[name]
    if rest:
        raise InputError(
            f"embedding_width {embedding_width} can't be split over {count} matched fields of shared vocabularies; "
            f"use {embedding_width - rest}"
        )
    elsewhere = {str(field.vocabulary) for field in (*features.ad, *features.user, *features.context)}
    for field in (*features.behavior, *features.ad, *features.user, *features.context):
        if field.vocabulary is not None and field.vocabulary not in widths:
            widths[field.vocabulary] = SMALL_WIDTH if field.vocabulary in elsewhere else embedding_width
    return widths


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
        k_ULD = self._concatenate(
            [self._rows(b, inputs[f"history_{b.name}"]) for _, b in self.features.pairs]
        )
        for field in self.features.unmatched_behavior:
            k_ULD = k_ULD + self._added(field, inputs[f"history_{field.name}"])
        if self.action is not None:
            k_ULD = k_ULD + self.action(inputs["history_action"])
        return k_ULD

    def ads(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return `q_UND`, the ad vectors."""
        return self._concatenate([self._rows(ad, inputs[f"ad_{ad.name}"]) for ad, _ in self.features.pairs])

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
            return values.unsqueeze(-1) * self.slope[f"b_{field.name}"]
        vectors = self._rows(field, values)
        if self._is_projected(field):
            projected: Tensor = self.project[f"b_{field.name}"](vectors)
            return projected
        return vectors

    def _is_projected(self, field: FieldSpec) -> bool:
        """Tell whether the field's table also serves ads, users or context, and so has a space of its own."""
        others = (*self.features.ad, *self.features.user, *self.features.context)
        return any(other.vocabulary == field.vocabulary for other in others)

    def _width_of(self, fields: Sequence[FieldSpec]) -> int:
        return sum(1 if f.kind == "numeric" else self.table_widths[str(f.vocabulary)] for f in fields)

    @staticmethod
    def _concatenate(parts: list[Tensor]) -> Tensor:
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
