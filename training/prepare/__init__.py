"""`longsight prepare`: a log folder becomes a dataset folder (layout: `training.dataset`), out of core.

    chunks     each table is read in pieces, checked, hashed, sorted by user     -> chunks of the work folder
    shown      one range of users at a time: impressions become requests         -> parts
    people     the same ranges: behaviours become histories, requests slices     -> parts
    assembly   the parts, one behind another                                     -> the dataset

What is held at once is a chunk or a part per worker, and the catalogue of ads; a stopped run goes on from the pieces
that are finished (`training.prepare.work`). No size of a piece changes a byte of the dataset.
"""

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from contract.errors import DatasetError, LogError
from contract.files import atomic_folder, refuse_foreign, write_json_atomic
from contract.log import TABLES, Log, read_log
from contract.schema import Split
from training.dataset import FORMAT, MARKER, SPLITS, fingerprint_of
from training.prepare.assembly import assemble, counts, sampling
from training.prepare.catalogue import make_catalogue
from training.prepare.chunks import Chunks
from training.prepare.people import KIND as PEOPLE
from training.prepare.people import PeopleParts, refuse_double_users
from training.prepare.shown import KIND as SHOWN
from training.prepare.shown import ShownParts, refuse_conflicts
from training.prepare.work import Facts, Progress, Sizes, Work, claimed_work

__all__ = ["DEFAULT_MEMORY", "Progress", "Sizes", "prepare"]

DEFAULT_MEMORY: Final = 2_000_000_000  # bytes
WORK_FORMAT: Final = 1  # of the pieces; a program with another one starts afresh
_MAX_WORKERS: Final = 8


def prepare(
    log: Path,
    dataset: Path,
    *,
    validation_from: int | None = None,
    test_from: int | None = None,
    history_lag_s: int = 0,
    memory_bytes: int = DEFAULT_MEMORY,
    sizes: Sizes | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the dataset of a log; returns its counts.

    Stopped at any moment and called again with the same log and flags, it goes on where it was.

    Args:
        log: a log folder.
        dataset: the folder to write; an older dataset there is replaced once the new one is whole.
        validation_from: first second of validation; by default the schema's.
        test_from: first second of test; by default the schema's.
        history_lag_s: a request sees events older than its time by more than this many seconds.
        memory_bytes: about what chunks and parts may take together; the program itself and the ads come on top.
        sizes: how the work is cut; by default after `memory_bytes` and the cores of this machine.
        progress: called with (done, total, label).

    Raises:
        LogError, SchemaError: the log is not as the design says, or contradicts itself.
        DatasetError: no split is known, one of its three parts is empty, the lag is negative, or another process is
            preparing the same dataset.
        LongsightError: the disk is full.

    """
    source = read_log(log)
    split = _split(source, validation_from, test_from)
    if history_lag_s < 0:
        raise DatasetError(f"history lag {history_lag_s} s is negative; give 0 or more seconds")
    target = dataset.resolve()
    refuse_foreign(target, MARKER)
    _refuse_empty_tables(source)
    sizes = sizes or _sizes(source, memory_bytes)
    before = _state_of(source)
    flags = {
        "split": split.model_dump(),
        "history_lag_s": history_lag_s,
        "sizes": [sizes.chunk_rows, sizes.part_rows],
    }
    made_from: Facts = {"format": [FORMAT, WORK_FORMAT], "log": before, **flags}
    report = progress or (lambda _done, _total, _label: None)
    parts = _parts(source, sizes)
    with claimed_work(target, made_from, parts=parts, workers=sizes.workers, report=report) as work:
        _make_parts(source, work, split, history_lag_s, chunk_rows=sizes.chunk_rows)
        with atomic_folder(target, marker=MARKER) as folder:
            result = _write(folder, source, work, split, history_lag_s)
            if _state_of(source) != before:
                raise LogError(f"{log}: changed while it was read; run prepare again when it is complete")
    report(1, 1, "done")
    return {**result["counts"], "dataset": str(dataset), "fingerprint": result["fingerprint"]}


def _make_parts(source: Log, work: Work, split: Split, history_lag_s: int, *, chunk_rows: int) -> None:
    """Make what is missing of the parts; chunks are no longer needed afterwards."""
    if len(work.pieces(PEOPLE)) < work.parts:
        chunks = Chunks(source, work, rows=chunk_rows)
        chunks.make("users", label="reading users")
        refuse_double_users(source, work)
        chunks.make("impressions", label="reading impressions")
        make_catalogue(source, work, chunks)
        ShownParts(source, work, split).make()
        facts = work.facts(SHOWN)
        refuse_conflicts(source, facts)
        _refuse_empty_splits(source, split, facts)
        chunks.make("behaviors", label="reading behaviours")
        PeopleParts(source, work, history_lag_s=history_lag_s).make()
    for kind in ("users", "impressions", "behaviors"):
        work.drop(kind)


def _write(folder: Path, source: Log, work: Work, split: Split, history_lag_s: int) -> dict[str, Any]:
    work.report(0, 2, "writing arrays")
    assemble(folder, source, work)
    work.report(1, 2, "fingerprint")
    manifest = {
        "format": FORMAT,
        "schema": source.schema.model_copy(update={"split": split}).to_json(),
        "history_lag_s": history_lag_s,
        "sampling": sampling(work),
        "counts": counts(folder, work),
        "fingerprint": fingerprint_of(folder),
    }
    write_json_atomic(folder / MARKER, manifest)
    return manifest


def _split(source: Log, validation_from: int | None, test_from: int | None) -> Split:
    known = source.schema.split
    first, second = (known.validation_from, known.test_from) if known else (None, None)
    first = first if validation_from is None else validation_from
    second = second if test_from is None else test_from
    if first is None or second is None:
        raise DatasetError(
            f"{source.path / 'schema.toml'}: no [split]; add one or give --validation-from and --test-from"
        )
    if not 0 <= first < second:
        raise DatasetError(f"validation from {first} must be before test from {second} (epoch seconds)")
    return Split(validation_from=first, test_from=second)


def _sizes(source: Log, memory_bytes: int) -> Sizes:
    schema = source.schema
    columns = 4 + max(len(schema.behavior), 2 + len(schema.context), len(schema.user))
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Sizes.within(memory_bytes, columns=columns, workers=min(available, _MAX_WORKERS))


def _parts(source: Log, sizes: Sizes) -> int:
    """Return into how many ranges the keys are divided, so that each holds about `part_rows` rows at most."""
    rows = max(source.rows("behaviors"), source.rows("impressions"), source.rows("users"))
    return max(1, -(-rows // sizes.part_rows))


def _state_of(source: Log) -> Facts:
    """Return by what a log is known again: each file's size and time of change, and the schema's text."""
    state: Facts = {"path": str(source.path.resolve())}
    for table in TABLES:
        place = source.place(table)
        files = [place] if place.is_file() else sorted(place.rglob("*")) if place.exists() else []
        state[table] = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    state["schema"] = hashlib.sha256((source.path / "schema.toml").read_bytes()).hexdigest()
    return state


def _refuse_empty_tables(source: Log) -> None:
    for table in TABLES:
        place = source.place(table)
        if (table != "users" or place.exists()) and not source.rows(table):
            remedy = "remove it if there are no profiles" if table == "users" else "write the table again"
            raise LogError(f"{place}: holds no rows; {remedy}")


def _refuse_empty_splits(source: Log, split: Split, facts: list[Facts]) -> None:
    first = min(fact["first"] for fact in facts if fact["first"] is not None)
    last = max(fact["last"] for fact in facts if fact["last"] is not None)
    bounds = (
        f"before {_moment(split.validation_from)}",
        f"from {_moment(split.validation_from)} to before {_moment(split.test_from)}",
        f"from {_moment(split.test_from)} on",
    )
    for code, (name, bound) in enumerate(zip(SPLITS, bounds, strict=True)):
        if not any(fact["requests"][code] for fact in facts):
            raise DatasetError(
                f"{source.place('impressions')}: no request in the {name} split ({bound}); the impressions run from "
                f"{_moment(first)} to {_moment(last)}: change [split] or give --validation-from and --test-from"
            )


def _moment(seconds: int) -> str:
    return f"{seconds} ({datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC)"
