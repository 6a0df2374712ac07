"""`--init-from`: yesterday's weights in today's model, so that it begins with yesterday's scores.

Ids are found by key. One that yesterday's vocabulary lacks begins as what it was scored with yesterday: its
out-of-vocabulary row. The optimiser starts afresh.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from contract.encoder import Encoder
from contract.errors import InputError
from contract.vocabulary import Vocabulary
from training.fit.touched import vocabulary_tables
from training.models import CtrModel
from training.run import Run


def check_alike(run: Run, *, model: str, config: Mapping[str, Any], encoder: Encoder) -> None:
    """Refuse a run whose weights don't fit.

    Raises:
        InputError: another model, setting of the model, or schema; the message names it.

    """
    place = f"--init-from {run.path}"
    if model == "popularity":
        raise InputError(f"{place}: popularity is counted, not trained; leave --init-from out")
    if run.model_name != model:
        raise InputError(f"{place}: is a {run.model_name}, not a {model}")
    for name, value in config.items():
        found = run.config.get(name)
        if _plain(found) != _plain(value):
            raise InputError(f"{place}: {name} = {found} there and {value} here; give --set {name}={found}")
    if run.schema.fingerprint() != encoder.schema.fingerprint():
        raise InputError(f"{place}: its schema has other fields or vocabularies than this dataset's")


def warm_encoder(run: Run, encoder: Encoder) -> Encoder:
    """Return today's vocabularies with yesterday's transforms: the weights know numbers in those units."""
    return Encoder(
        encoder.schema, encoder.vocabularies, run.encoder.transforms, history_length=encoder.history_length
    )


def start_from(run: Run, model: CtrModel, encoder: Encoder) -> None:
    """Give a model the weights of a run that `check_alike` has passed."""
    tables = vocabulary_tables(model)
    old = run.model.state_dict()
    new = model.state_dict()
    for name, value in new.items():
        if name in tables:
            vocabulary = tables[name]
            value.copy_(
                _by_key(old[name], run.encoder.vocabularies[vocabulary], encoder.vocabularies[vocabulary])
            )
        elif value.shape == old[name].shape:
            value.copy_(old[name])
        else:
            value.copy_(_newest_steps(old[name], len(value)))


def _by_key(table: Tensor, old: Vocabulary, new: Vocabulary) -> Tensor:
    """Return yesterday's rows `[R_new, D]` in today's order."""
    first = torch.arange(new.first_known_row)
    rows = torch.cat([first, torch.from_numpy(old.rows(new.known))])
    return table.index_select(0, rows)


def _newest_steps(codes: Tensor, length: int) -> Tensor:
    """Return a code per step of a history, newest last, for another L; older steps repeat the oldest code."""
    missing = max(0, length - len(codes))
    return torch.cat([codes[:1].expand(missing, -1), codes[max(0, len(codes) - length) :]])


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
