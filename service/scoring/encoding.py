"""From one request to the tensors of the graph, in two parts: what the candidates say needs no history."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from contract.encoder import Encoder, Tensors
from contract.schema import RawValue
from service.scoring.features import RequestFeatures
from service.scoring.request import RawId, ScoreRequest


class AdColumns(Protocol):
    """Encoded columns of N ads, and how many of them are unknown."""

    @property
    def tensors(self) -> Tensors:
        """`ad_<field>` [N]."""
        ...

    @property
    def unknown(self) -> int:
        """How many of the N ids the catalogue lacks."""
        ...


class Ads(Protocol):
    """Where ads come from."""

    def columns_for(self, ids: Sequence[RawId]) -> AdColumns:
        """Return the columns of ads by their ids; raises InputError for one that has no key."""
        ...


class RequestEncoder:
    """Encodes requests, U = 1.

    Args:
        encoder: of the bundle.
        ads: the catalogue.

    """

    def __init__(self, encoder: Encoder, ads: Ads) -> None:
        self._encoder = encoder
        self._ads = ads
        self._features = RequestFeatures(encoder)
        self._has_profile = bool(encoder.schema.user)

    def candidates(self, request: ScoreRequest) -> tuple[Tensors, int]:
        """Return `ad_<field>` and `context_<field>` [1, N], and how many of the ads are unknown."""
        ads = self._ads.columns_for(request.ad_ids)
        columns = dict(ads.tensors)
        for name, values in request.overrides.items():
            columns[f"ad_{name}"] = self._overridden(name, columns[f"ad_{name}"], values)
        columns |= self._features.context(len(request.ad_ids), request.context, request.candidate_context)
        return {name: column_N[None] for name, column_N in columns.items()}, ads.unknown

    def user(self, request: ScoreRequest, profile: Mapping[str, RawValue]) -> Tensors:
        """Return `user_<field>` [1]."""
        if not self._has_profile:
            return {}
        return self._features.user({"user_id": request.user_id, **profile})

    def _overridden(self, name: str, column_N: NDArray[Any], values: Sequence[RawValue]) -> NDArray[Any]:
        """Return a copy of an ad field's column with the values that are not None in their places."""
        places = np.array([index for index, value in enumerate(values) if value is not None], dtype=np.int64)
        given = self._encoder.pack("ad", name, [values[index] for index in places])
        changed = column_N.copy()
        changed[places] = self._encoder.encode_packed("ad", name, given)
        return changed
