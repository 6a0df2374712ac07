"""`longsight load`: a log folder into Redis. Reads through `contract.log`, so it needs polars (the extra train)."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from contract.errors import InputError
from contract.keys import keys
from contract.records import Records, empty_records
from contract.schema import RawValue
from service.history.embedded import embedded_server, rewrite_log
from service.history.writer import StoreWriter, claim_layout
from service.layout import StoreError, max_stored, without_password

if TYPE_CHECKING:
    from contract.log import Histories, Log

Progress = Callable[[int, int | None, str], None]

CONNECT_TIMEOUT_S: Final = 5.0
REPLY_TIMEOUT_S: Final = 60.0
OLDEST_MAJOR: Final = 7


def load(
    log: Path,
    *,
    redis_url: str | None = None,
    embedded_dir: Path | None = None,
    until: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a log's histories, profiles and ads into a store; repeating it changes nothing.

    Args:
        log: a log folder.
        redis_url: redis://, rediss:// or unix:// URL; or else
        embedded_dir: folder of the embedded Valkey, started (or joined) for the load and rewritten after it.
        until: only events strictly before this second; users without any such event have no history afterwards.
        progress: called with (done, total, label).

    Returns:
        `layout`, `users` (with a history), `events` (stored), `trimmed` (older than the 10,000 newest of a user),
        `profiles`, `ads`, `store`.

    Raises:
        InputError: the log is not as the design says, or not exactly one store is given.
        StoreError: the store can't be reached, is too old, or refuses.

    """
    if (redis_url is None) == (embedded_dir is None):
        raise InputError("load needs one store: a Redis URL or the folder of an embedded Valkey")
    report = progress or (lambda _done, _total, _label: None)
    report(0, None, "reading the log")
    source = _read_log(log)
    content = _Content(source, until)
    if redis_url is not None:
        return content.write(redis_url, report)
    assert embedded_dir is not None
    with embedded_server(embedded_dir) as url:
        counts = content.write(url, report)
        report(0, None, "rewriting the append-only file")
        rewrite_log(url)
    return counts


class _Content:
    """What of a log goes into a store: read and checked whole before anything is written."""

    def __init__(self, source: "Log", until: int | None) -> None:
        self.source = source
        self.histories: Histories = source.histories(until=until)
        self.kept = max_stored()
        self.without: list[int] = []
        if until is not None:
            everyone = keys(source.behaviors["user_id"].unique().to_list())
            self.without = np.setdiff1d(everyone, self.histories.user_keys).tolist()
        self.profiles = list(self._profiles())
        self.ads = self._ads()

    def write(self, url: str, report: Progress) -> dict[str, Any]:
        """Write everything; returns what `load` returns."""
        users = len(self.histories.user_keys)
        total = users + len(self.without) + len(self.profiles) + len(self.ads)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            report(done, total, "writing")

        with _store(url) as client:
            layout = claim_layout(client, self.source.schema)
            writer = StoreWriter(client, self.source.schema, layout)
            writer.histories(self._runs(), advance=advance)
            writer.profiles(self.profiles, advance=advance)
            writer.ads(self.ads, advance=advance)
        lengths = np.diff(self.histories.offsets)
        events = int(np.minimum(lengths, self.kept).sum())
        return {
            "layout": layout.number,
            "users": users,
            "events": events,
            "trimmed": int(lengths.sum()) - events,
            "profiles": len(self.profiles),
            "ads": len(self.ads),
            "store": without_password(url),
        }

    def _runs(self) -> Iterator[tuple[int, Records]]:
        offsets = self.histories.offsets.tolist()
        records = self.histories.records
        for user_key, start, end in zip(
            self.histories.user_keys.tolist(), offsets, offsets[1:], strict=False
        ):
            yield user_key, records[max(start, end - self.kept) : end]
        nothing = empty_records(self.source.schema)
        for user_key in self.without:
            yield user_key, nothing

    def _profiles(self) -> Iterator[tuple[int, Mapping[str, RawValue]]]:
        seen = dict.fromkeys(self.histories.user_texts)
        rows: dict[str, dict[str, RawValue]] = {text: {"user_id": text} for text in seen}
        if self.source.users is not None:
            for row in self.source.users.iter_rows(named=True):
                text = str(row["user_id"])
                rows[text] = {**row, "user_id": text}
        yield from zip(keys(rows).tolist(), rows.values(), strict=True)

    def _ads(self) -> list[Mapping[str, RawValue]]:
        """Return each ad's schema fields and, for display, its other texts."""
        frame = self.source.ads
        fields = {field.name for field in self.source.schema.ad}
        texts = {name for name, dtype in frame.schema.items() if str(dtype) == "String"}
        names = [name for name in frame.columns if name == "ad_id" or name in fields | texts]
        return list(frame.select(names).iter_rows(named=True))


@contextlib.contextmanager
def _store(url: str) -> Iterator["redis.Redis"]:
    """Yield a client of the store; what goes wrong with it is one line that names the store."""
    place = without_password(url)
    try:
        client = redis.Redis.from_url(
            url,
            protocol=2,
            socket_timeout=REPLY_TIMEOUT_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise InputError(f"{place}: not a Redis URL: {error}") from error
    try:
        with contextlib.closing(client):
            version = str(client.info("server").get("redis_version", ""))
            if version and int(version.split(".", maxsplit=1)[0]) < OLDEST_MAJOR:
                raise StoreError(f"{place}: Redis {version} is too old; Redis >= 7.0 or Valkey is needed")
            yield client
    except RedisError as error:
        # a pipeline's error quotes the command, bytes and all, before the reason
        reason = (str(error).splitlines() or [type(error).__name__])[0].rpartition("caused error: ")[2]
        raise StoreError(f"{place}: {reason}") from error


def _read_log(path: Path) -> "Log":
    try:
        from contract.log import read_log  # noqa: PLC0415  polars comes with the extra train, this service without
    except ModuleNotFoundError as error:
        raise InputError(
            f"reading a log needs {error.name}; install the extras: pip install 'longsight[train,serve]'"
        ) from error
    return read_log(path)
