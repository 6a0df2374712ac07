"""The errors a user of Longsight can meet, below every other module.

`LongsightError` (exit 1: it failed)
  `InputError` (exit 2: what was given is wrong)
    `SchemaError`, `LogError`, `KeyFormatError`, `DatasetError`, `RunError`, `BundleError`

Each message is one line: the place (file, column, row, field), what is wrong there, and the remedy.
"""

from typing import ClassVar


class LongsightError(Exception):
    """Something failed that the user did not get wrong; the command line exits with 1."""

    exit_code: ClassVar[int] = 1


class InputError(LongsightError):
    """What was given is wrong; the command line exits with 2."""

    exit_code: ClassVar[int] = 2


class SchemaError(InputError):
    """A schema that contradicts itself, or a file that does not match it."""


class LogError(InputError):
    """A log folder that can't be read as it stands: names file, column and first bad row."""


class KeyFormatError(InputError, ValueError):
    """An id that has no key: bool, float, empty, or longer than 256 bytes."""


class DatasetError(InputError):
    """A dataset folder that is missing, damaged, or unfit for the request."""


class RunError(InputError):
    """A run folder that is missing, damaged, or from another format."""


class BundleError(InputError):
    """A bundle whose checksums, schema, encoding or scores do not hold."""
