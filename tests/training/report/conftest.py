"""A small log with a taste in it, its dataset and a few runs side by side, made once."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from tests.support.logs import write_log
from training.prepare import prepare
from training.report import write_report
from training.train import train

FAST = {
    "epochs": 2,
    "requests_per_batch": 16,
    "learning_rate": 1e-2,
    "embedding_width": 8,
    "history_length": 20,
}
NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture(name="made", scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    prepare(write_log(folder / "log"), folder / "dataset")
    for model in ("tin", "din", "mean_pool"):
        train(folder / "dataset", folder / "runs" / model, model=model, settings=FAST)
    train(folder / "dataset", folder / "runs" / "popularity", model="popularity")
    return folder


@pytest.fixture(name="runs")
def _runs(made: Path, tmp_path: Path) -> Path:
    """Return a folder of runs that a test may change."""
    shutil.copytree(made / "runs", tmp_path / "runs", ignore=shutil.ignore_patterns("report.html"))
    return tmp_path / "runs"


@pytest.fixture(name="page", scope="session")
def _page(made: Path) -> str:
    """Return the report of TIN beside DIN, mean_pool and popularity."""
    return write_report(made / "runs" / "tin", replicates=100, now=NOW).read_text(encoding="utf-8")


@pytest.fixture(name="run_on")
def _run_on(tmp_path: Path) -> Callable[..., Path]:
    """Return what trains a run on the small log after its impressions were changed."""

    def make(change: Callable[[pl.DataFrame], pl.DataFrame], *, model: str = "mean_pool") -> Path:
        log = write_log(tmp_path / "log", users=20, requests=6)
        path = log / "impressions.parquet"
        change(pl.read_parquet(path)).write_parquet(path)
        prepare(log, tmp_path / "dataset")
        settings = {} if model == "popularity" else {**FAST, "epochs": 1}
        train(tmp_path / "dataset", tmp_path / "run", model=model, settings=settings)
        return tmp_path / "run"

    return make
