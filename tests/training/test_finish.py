"""The end of a training finds what it put aside, or says what is wrong with it."""

from pathlib import Path
from typing import Any

import pytest

from contract.errors import RunError
from tests.support.logs import write_log
from training import train as train_module
from training.finish import finish
from training.fit.job import Fitted
from training.fit.work import WorkFolder
from training.prepare import prepare
from training.train import train


@pytest.mark.parametrize(
    "content", [b"", b"no weights", b"PK\x03\x04 no weights"], ids=["empty", "text", "zip"]
)
def test_best_weights_that_were_damaged_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    def damaged(folder: Path, work: WorkFolder, fitted: Fitted, *rest: Any, **options: Any) -> dict[str, Any]:
        work.best(fitted.at.best_epoch).write_bytes(content)
        return finish(folder, work, fitted, *rest, **options)

    prepare(write_log(tmp_path / "log"), tmp_path / "dataset")
    monkeypatch.setattr(train_module, "finish", damaged)
    with pytest.raises(RunError, match=r"best-0\.pt: damaged; train again without --resume"):
        train(tmp_path / "dataset", tmp_path / "run", model="popularity")
    assert not (tmp_path / "run").exists()
