"""Files that a person names for what a command writes."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from producers.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class UnwritableFileError(UsageError):
    """What was to be written cannot be, at that place."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the place where it cannot be written. Raises `UnwritableFileError`."""
    try:
        yield
    except OSError as error:
        raise UnwritableFileError(
            f"{path} cannot be written: {error.strerror or error}. Name a place that exists and has room, and that you "
            "may write to."
        ) from error
