"""A whole training comes to the same, however its tables are trained."""

from pathlib import Path

import pytest
import torch

from tests.support.logs import write_log
from training.fit import step
from training.prepare import prepare
from training.run import Run
from training.train import train

FAST = {
    "requests_per_batch": 32,
    "embedding_width": 8,
    "history_length": 20,
    "epochs": 1,
    "learning_rate": 0.02,
}


def test_a_run_keeps_the_same_weights_whether_its_tables_are_trained_by_row_or_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(write_log(tmp_path / "log"), tmp_path / "d")
    tables = []
    for rows in (1, 10**9):
        monkeypatch.setattr(step, "SMALL_TABLE", rows)
        train(tmp_path / "d", tmp_path / "run", model="tin", settings=dict(FAST))
        tables.append(Run.load(tmp_path / "run").model.get_parameter("embedding.table.v_item.weight"))
    assert torch.allclose(*tables, atol=1e-4)
    assert tables[0].abs().max() > 0.1
