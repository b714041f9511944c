"""Events at versions of the lake, as user-windows are folded from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from analytics.lake.errors import LakeError
from analytics.lake.table_schemas import EVENTS
from analytics.signals.cells import EPOCH

if TYPE_CHECKING:
    import polars as pl

    from analytics.lake.tables import Lake


class EventSource(Protocol):
    """Rows of the table `events`, at versions."""

    def version(self) -> int:
        """The newest version."""
        ...

    def scan(self, version: int) -> pl.LazyFrame:
        """Everything at a version: at least the columns `READ_OF_EVENTS`."""
        ...

    def increments(self, after: int, through: int) -> pl.DataFrame | None:
        """What was stored between two versions: `EPOCH` and `decided_at`; None where nobody knows any more."""
        ...


class LakeEvents:
    """The table `events` of a lake."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def version(self) -> int:
        """The newest version."""
        return self._lake.version(EVENTS)

    def scan(self, version: int) -> pl.LazyFrame:
        """Everything at a version. Raises `LakeError` where there is no such version any more."""
        return self._lake.scan(EVENTS, version=version)

    def increments(self, after: int, through: int) -> pl.DataFrame | None:
        """What was stored between two versions; None where the log does not reach back."""
        try:
            return self._lake.increments(EVENTS, after=after, through=through, columns=[*EPOCH, "decided_at"])
        except LakeError:
            return None
