"""Small models and random batches."""

import numpy as np

from training.batches import Batch
from training.models import CtrModel
from training.models.features import FeatureSpec, FieldSpec


def tiny_features(items: int) -> FeatureSpec:
    """Return fields of which `item` has a table of that many rows and `kind` one of 20."""
    return FeatureSpec(
        behavior=(FieldSpec("item_id", "categorical", "item"), FieldSpec("kind", "categorical", "kind")),
        ad=(
            FieldSpec("ad_id", "categorical", "item", "item_id"),
            FieldSpec("kind", "categorical", "kind", "kind"),
        ),
        user=(),
        context=(),
        vocabulary_rows={"item": items, "kind": 20},
        action_rows=2,
        age_rows=33,
    )


def random_batch(
    model: CtrModel,
    generator: np.random.Generator,
    *,
    requests: int,
    rows: int,
    length: int = 8,
    ads: int = 3,
    padded: bool = False,
) -> Batch:
    """Return a batch whose items are among the first `rows`; `padded` leaves gaps in histories and ads."""
    history, shown = (requests, length), (requests, ads)
    mask = np.sort(generator.random(history) < 0.6, axis=1) if padded else np.ones(history, dtype=bool)
    valid = generator.random(shown) < 0.8 if padded else np.ones(shown, dtype=bool)
    valid[0, 0] = True
    tensors = {
        "history_item_id": generator.integers(1, rows, history) * mask,
        "history_kind": generator.integers(1, 20, history) * mask,
        "history_age": generator.integers(1, 33, history) * mask,
        "history_mask": mask,
        "ad_ad_id": generator.integers(1, rows, shown) * valid,
        "ad_kind": generator.integers(1, 20, shown) * valid,
    }
    clicked = generator.integers(0, 2, shown).astype(np.float32) * valid
    row = np.zeros(shown, dtype=np.int64)
    user = np.arange(requests) // 2  # two requests of each user
    return Batch({name: tensors[name] for name in model.inputs}, clicked, valid, row, user)
