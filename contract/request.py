"""One scoring request in raw form, and how it becomes the tensors of a graph.

What a bundle's golden requests are kept as: whoever opens the bundle encodes them again and must get the same tensors.

Shapes: L history steps, N candidates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from contract.encoder import Encoder, Tensors
from contract.records import Records
from contract.schema import RawValue

Features = Mapping[str, RawValue]


@dataclass(frozen=True)
class RawRequest:
    """One user and N candidate ads at one moment.

    Attributes:
        timestamp: seconds UTC.
        history: the user's packed records, oldest first; those not before the request are ignored.
        ads: raw features of each candidate, `ad_id` among them; an absent or null field is missing.
        context: raw context of the whole request.
        candidate_context: per field N raw values (None = missing); they win over `context`.
        user: raw profile, `user_id` among them; an absent or null field is missing.

    """

    timestamp: int
    history: Records
    ads: Sequence[Features]
    context: Features = field(default_factory=dict)
    candidate_context: Mapping[str, Sequence[RawValue]] = field(default_factory=dict)
    user: Features = field(default_factory=dict)

    def encode(self, encoder: Encoder, *, history_lag_s: int = 0) -> Tensors:
        """Return the tensors of this request: `[1, L]`, `[1, N]` and `[1]`.

        Only events strictly before `timestamp - history_lag_s` count; the encoder keeps the newest L of them.

        Raises:
            InputError: a value that its field can't hold, named.

        """
        end = int(np.searchsorted(self.history["timestamp"], self.timestamp - history_lag_s))
        tensors = encoder.history([self.history[:end]], [self.timestamp])
        tensors |= {name: column_N[None] for name, column_N in encoder.ads(self.ads).items()}
        tensors |= encoder.users([self.user])
        context = encoder.context(len(self.ads), self.context, self.candidate_context)
        return tensors | {name: column_N[None] for name, column_N in context.items()}
