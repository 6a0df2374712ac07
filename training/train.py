"""`longsight train`: a dataset becomes a run folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from contract.errors import LongsightError
from contract.files import atomic_folder, write_json_atomic
from training.dataset import Dataset
from training.finish import finish
from training.fit.checks import check_device, check_splits
from training.fit.job import Job
from training.fit.peers import Peers
from training.fit.processes import peers_of_environment
from training.fit.work import has_position, work_folder
from training.run import FORMAT, MARKER, OWN, Run
from training.scoring import Progress
from training.settings import resolve_settings

SAVE_EVERY_S: Final = 300.0

Say = Callable[[str], object]


def train(
    dataset: Path,
    run: Path,
    *,
    model: str,
    config_path: Path | None = None,
    settings: dict[str, object] | None = None,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = False,
    init_from: Path | None = None,
    save_every_s: float = SAVE_EVERY_S,
    progress: Progress | None = None,
    say: Say | None = None,
) -> dict[str, Any]:
    """Train a model and write its run folder; returns the record kept in `run.json`.

    Under torchrun every process calls this; all but the first write nothing and return an empty record.

    Args:
        dataset: a dataset folder.
        run: the folder to write; it appears under this name once it is whole.
        model: din, tin, diffumin, mean_pool or popularity.
        config_path: a TOML file of settings.
        settings: `--set`, over the file, over the schema's `[train]`, over the model's defaults.
        seed: of initialisation and order; the same seed on the same machine gives the same run.
        device: cpu or cuda.
        resume: go on where an unfinished training of this run was last saved, if there is one.
        init_from: a run of the same model to start from.
        save_every_s: seconds between saved positions.
        progress: called with (done, total, label).
        say: called with a line that a user should read.

    Raises:
        DatasetError, SchemaError, InputError: what was given is wrong.
        LongsightError: the loss stopped being a number, or the run can't be written. If an epoch had been
            finished before the loss broke, the run folder holds its checkpoint and says so under `stopped`.
        StoppedError: a signal came; what was done is saved for `resume`.

    """
    check_device(device)
    opened = Dataset.open(dataset)
    training, config = resolve_settings(
        model, schema=opened.schema.train, config_path=config_path, given=settings or {}
    )
    check_splits(opened)
    warm = None if init_from is None else Run.load(init_from)
    job = Job(opened, run, model, training, config, seed, device, warm, save_every_s)
    with peers_of_environment(device) as peers:
        first = peers.rank == 0
        report = progress if progress is not None and first else _silent
        say = say if say is not None and first else _mute
        resume = peers.any(first and resume and _found(run, say=say))
        if not first:
            job.fit(peers, None, resume=resume, report=report)
            return {}
        return _write(job, peers, resume=resume, report=report, say=say)


def _found(run: Path, *, say: Say) -> bool:
    """Tell whether there is a position to go on from; says so if there is none."""
    found = has_position(run)
    if not found:
        say(f"{run}: nothing to resume; training starts from the beginning")
    return found


def _write(job: Job, peers: Peers, *, resume: bool, report: Progress, say: Say) -> dict[str, Any]:
    """Fit, then write the run; returns its record."""
    run = job.run

    def dropped() -> None:
        say(f"{run}: an unfinished training is dropped; --resume would have gone on with it")

    try:
        with work_folder(run, dropped=dropped) as work, atomic_folder(run, marker=MARKER, own=OWN) as folder:
            fitted = job.fit(peers, work, resume=resume, report=report)
            if fitted.at.failure is not None and fitted.at.best_epoch < 0:
                work.spent = True
                raise LongsightError(f"{job.dataset.path}: {fitted.at.failure}; nothing was written")
            record = {"format": FORMAT, "model": job.model, "config": job.config}
            record |= finish(folder, work, fitted, job.training, report=report)
            record |= {"seconds": fitted.seconds, "provenance": job.origin(peers)}
            write_json_atomic(folder / MARKER, record)
    except OSError as error:
        after = "make room and go on with --resume" if has_position(run) else "nothing was written"
        raise LongsightError(f"{run} can't be written: {error.strerror or error}; {after}") from error
    if fitted.at.failure is not None:
        raise LongsightError(
            f"{run}: {fitted.at.failure}; kept the checkpoint of epoch {fitted.at.best_epoch + 1}"
        )
    return record


def _silent(_done: int, _total: int | None, _label: str) -> None:
    """Report nothing."""


def _mute(_line: str) -> None:
    """Say nothing."""
