"""Noticing that retention took rows out of a table: whoever keeps sums of it up has to begin anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from deltalake import DeltaTable

TAKEN: Final = "taken"
"""The application transaction of a commit that takes rows out; its number is the version that they were in."""


class Removals:
    """What was last seen of one table."""

    def __init__(self) -> None:
        self._files: frozenset[str] | None = None
        self._mark: int | None = None

    def mark(self, handle: DeltaTable) -> int | None:
        """A number that is another one once rows were taken out; None where none ever were.

        The log is asked only where files went since the last time: that costs by the commits since a checkpoint.

        Raises:
            DeltaError: The log cannot be read.
        """
        files = frozenset(handle.file_uris())
        if self._files is None or not self._files <= files:
            self._mark = handle.transaction_version(TAKEN)
        self._files = files
        return self._mark
