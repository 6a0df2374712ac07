"""One library's trainer in a process of its own, trained on request: `python trainers.py KIND JSON`.

Reads lines `FORM BATCHES` from stdin and answers each with the seconds that took, after one line that says it is
ready. Every history is full; a batch is U requests of N candidates each, or the same U N rows.
"""

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.batches import BatchSource, training_order
from training.dataset import Dataset
from training.fit.memory import keep_freed_memory
from training.fit.step import Prepared, TrainStep
from training.fit.trainer import ahead
from training.fitting import fit_encoder
from training.models import build_model
from training.prepare import prepare
from training.run import feature_spec
from training.settings import resolve_settings

HIDDEN: Final = (80, 40)
WIDTH: Final = 32
Train = Callable[[int], None]
"""Trains so many batches."""

SCHEMA: Final = """
[split]
validation_from = 2000000
test_from = 3000000
[vocabularies.item]
kind = "exact"
[[behavior]]
name = "item_id"
type = "categorical"
vocabulary = "item"
[[ad]]
name = "ad_id"
type = "categorical"
vocabulary = "item"
matches = "item_id"
"""


@dataclass(frozen=True)
class Sizes:
    """What is trained on."""

    history: int
    """L"""
    requests: int
    """U"""
    candidates: int
    """N"""
    batches: int
    items: int


def longsight(sizes: Sizes, model: str, settings: dict[str, Any]) -> dict[str, Train]:
    """Return our trainer: a log prepared into a dataset, batches cut from it in a thread, steps."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        _write_log(Path(folder) / "log", sizes, generator)
        prepare(Path(folder) / "log", Path(folder) / "dataset")
        opened = Dataset.open(Path(folder) / "dataset")
        encoder = fit_encoder(opened, history_length=sizes.history)
        given = {"history_length": sizes.history, "requests_per_batch": sizes.requests, **settings}
        training, config = resolve_settings(model, schema={}, config_path=None, given=given)
        built = build_model(model, feature_spec(encoder), config, history_length=sizes.history)
        source = BatchSource(opened, encoder, built.inputs)
    keep_freed_memory()  # as `train` does
    step = TrainStep(built.train(), training, steps=1_000_000)
    chosen = opened.requests_of("train")

    def cut(these: NDArray[np.int64]) -> Prepared:
        return step.prepare(source.batch(these, serving=False))

    kept = cut(chosen[: sizes.requests])

    def epoch(batches: int) -> None:
        order = training_order(source, chosen, requests=sizes.requests, generator=generator)
        for prepared in ahead(cut, order[:batches]):
            step.step(prepared)

    def bare(batches: int) -> None:
        for _ in range(batches):
            step.step(kept)

    return {"loop": epoch, "step": bare}


def _write_log(log: Path, sizes: Sizes, generator: np.random.Generator) -> None:
    """Write a log of one request a user; two more users make the validation and the test split."""
    import polars as pl  # noqa: PLC0415 - the other trainers don't need it

    users = sizes.batches * sizes.requests
    people = np.arange(users + 2)
    moments = np.where(people < users, 1_000_000, np.where(people == users, 2_500_000, 3_500_000))
    owner = np.repeat(people, sizes.history)
    events = {
        "user_id": owner,
        "timestamp": np.tile(np.arange(1, sizes.history + 1), len(people)),
        "item_id": generator.integers(1, sizes.items, len(owner)),
    }
    shown = np.repeat(people, sizes.candidates)
    ads = [generator.choice(sizes.items - 1, sizes.candidates, replace=False) + 1 for _ in people]
    impressions = {
        "user_id": shown,
        "ad_id": np.concatenate(ads),
        "timestamp": moments[shown],
        "clicked": generator.integers(0, 2, len(shown)),
    }
    log.mkdir()
    (log / "schema.toml").write_text(SCHEMA)
    pl.DataFrame(events).write_parquet(log / "behaviors.parquet")
    pl.DataFrame(impressions).write_parquet(log / "impressions.parquet")
    pl.DataFrame({"ad_id": np.arange(1, sizes.items)}).write_parquet(log / "ads.parquet")


def deepctr(sizes: Sizes, model: str, settings: dict[str, Any]) -> dict[str, Train]:
    """Return DeepCTR-Torch's DIN: its `fit` with its own defaults for all that isn't a size, and its bare step."""
    import torch  # noqa: PLC0415 - each trainer imports its own library
    from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat  # noqa: PLC0415
    from deepctr_torch.models import DIN  # noqa: PLC0415

    assert (model, settings) == ("din", {})
    item = SparseFeat("item", sizes.items, embedding_dim=WIDTH)
    past = SparseFeat("hist_item", sizes.items, embedding_dim=WIDTH, embedding_name="item")
    columns = [item, VarLenSparseFeat(past, maxlen=sizes.history, length_name="length")]
    din = DIN(columns, ["item"], dnn_hidden_units=HIDDEN, att_hidden_size=HIDDEN, att_activation="relu")
    din.compile("adam", "binary_crossentropy")
    rows = _rows(sizes)
    inputs = {
        "item": rows["item"],
        "hist_item": rows["history"],
        "length": np.full(len(rows["item"]), sizes.history),
    }
    size = sizes.requests * sizes.candidates
    first = [inputs[name][:size].reshape(size, -1) for name in din.feature_index]
    x, y = torch.from_numpy(np.concatenate(first, axis=1)).float(), torch.from_numpy(rows["clicked"][:size])

    def fit(batches: int) -> None:
        given = {name: values[: batches * size] for name, values in inputs.items()}
        din.fit(given, rows["clicked"][: batches * size], batch_size=size, epochs=1, verbose=0)

    def bare(batches: int) -> None:
        for _ in range(batches):
            loss = din.loss_func(din(x).squeeze(-1), y, reduction="sum") + din.get_regularization_loss()
            din.optim.zero_grad()
            loss.backward()
            din.optim.step()
            loss.item()

    return {"loop": fit, "step": bare}


def fuxictr(sizes: Sizes, model: str, settings: dict[str, Any]) -> dict[str, Train]:
    """Return the DIN of a FuxiCTR checkout: its `train_step`."""
    import torch  # noqa: PLC0415

    checkout = Path(settings["checkout"])
    sys.path[:0] = [str(checkout), str(checkout / "model_zoo" / "DIN")]
    from fuxictr.features import FeatureMap  # noqa: PLC0415
    from src.DIN import DIN  # noqa: PLC0415

    assert model == "din"
    table = {"vocab_size": sizes.items, "padding_idx": 0, "source": ""}
    features = FeatureMap("speed", "")
    features.features["item"] = {"type": "categorical", **table}
    sequence = {
        "type": "sequence",
        "max_len": sizes.history,
        "share_embedding": "item",
        "feature_encoder": None,
    }
    features.features["history"] = {**sequence, **table}
    features.labels, features.num_fields, features.total_features = ["clicked"], 2, sizes.items
    features.default_emb_dim = WIDTH
    features.set_column_index()
    din = DIN(
        features,
        dnn_hidden_units=list(HIDDEN),
        attention_hidden_units=list(HIDDEN),
        attention_hidden_activations="ReLU",
        embedding_dim=WIDTH,
        din_target_field="item",
        din_sequence_field="history",
        optimizer="adam",
        loss="binary_crossentropy",
        model_root=tempfile.gettempdir(),
        metrics=["AUC"],
        verbose=0,
    )
    din._max_gradient_norm = 10.0  # noqa: SLF001 - what its own fit() sets
    size = sizes.requests * sizes.candidates
    batch = {name: torch.from_numpy(values[:size]) for name, values in _rows(sizes).items()}
    batch["clicked"] = batch["clicked"].float().view(-1, 1)
    din.train()

    def bare(batches: int) -> None:
        for _ in range(batches):
            din.train_step(batch).item()

    return {"step": bare}


def _rows(sizes: Sizes) -> dict[str, Any]:
    """Return the rows of all batches, a history with each."""
    generator = np.random.default_rng(0)
    requests = sizes.batches * sizes.requests
    history = generator.integers(1, sizes.items, (requests, sizes.history))
    return {
        "item": generator.integers(1, sizes.items, requests * sizes.candidates),
        "history": np.repeat(history, sizes.candidates, axis=0),
        "clicked": generator.integers(0, 2, requests * sizes.candidates).astype(np.float32),
    }


def main() -> None:
    """Build a trainer and train whenever a line asks for it."""
    kind, described = sys.argv[1:]
    given = json.loads(described)
    threads = given.pop("threads")
    model, settings = given.pop("model"), given.pop("settings")
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    logging.disable()
    import torch  # noqa: PLC0415 - after stdout is safe

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    trainers = {"longsight": longsight, "deepctr": deepctr, "fuxictr": fuxictr}
    forms = trainers[kind](Sizes(**given), model, settings)
    answers.write(json.dumps(sorted(forms)) + "\n")
    for line in sys.stdin:
        form, batches = line.split()
        started = time.perf_counter()
        forms[form](int(batches))
        answers.write(f"{time.perf_counter() - started}\n")


if __name__ == "__main__":
    main()
