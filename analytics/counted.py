"""What was counted about every cell, kept up as the table `signals` grows: what the commands and the page show.

Reading it all once costs by what there is, a part at a time; from then on a look costs by what was appended. The
numbers are those that `signal_rows` finds in one fold of everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from analytics.cellrows import signal_rows
from analytics.columns import MINUTE_US, PLACE, Columns, may_pass, may_settle, microseconds
from analytics.lake.schemas import SIGNALS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from analytics.columns import Flags, Increment, Places
    from analytics.lake.tables import Lake

DEFAULT_OUTCOME_DEADLINE_S: Final = 120.0


class Counted:
    """Everything counted about every cell.

    Args:
        outcome_deadline_s: Seconds after which an execution that did not come counts as missing.

    Attributes:
        columns: The counters.
        version: Version of `signals` that they are at; -1 before the first.
    """

    def __init__(self, outcome_deadline_s: float = DEFAULT_OUTCOME_DEADLINE_S) -> None:
        self.columns = Columns()
        self.version = -1
        self._deadline_s = outcome_deadline_s
        self._watermark: datetime | None = None
        self._settled_at: datetime | None = None
        self._changed: Flags = np.empty(0, dtype=np.bool_)

    def read(self, lake: Lake, version: int) -> Iterator[Increment]:
        """Take in what was appended up to a version of `signals`; each part is yielded once it is counted.

        Take all parts: what breaks off in between is not to be used any more.

        Raises:
            LakeError: The lake cannot be read, or its log no longer reaches back to what is counted: begin anew.
        """
        if self.version < 0:
            parts = lake.batches(SIGNALS, version=version)
        else:
            parts = iter([lake.increments(SIGNALS, after=self.version, through=version)])
        for rows in parts:
            if rows.height:
                yield self._add(rows)
        self.version = version

    def take_changed(self) -> Places:
        """The cells whose rows may differ from when this was last asked, by their place in `columns.cells`."""
        (places,) = np.nonzero(self._changed)
        self._changed[:] = False
        return places

    def rows(self, cells: Places) -> list[dict[str, Any]]:
        """One JSON-ready object for each of some cells, in the order of the cells' names."""
        if self._watermark is None or not cells.size:
            return []
        wanted = np.zeros(len(self.columns.cells), dtype=np.bool_)
        wanted[cells] = True
        folded = self.columns.folded(np.flatnonzero(wanted[self.columns.cell_of]))
        return signal_rows(folded, watermark=self._watermark, outcome_deadline_s=self._deadline_s)

    def _add(self, rows: pl.DataFrame) -> Increment:
        columns, before = self.columns, self._watermark
        increment = columns.add(rows)
        self._changed = np.append(self._changed, np.ones(len(columns.cells) - self._changed.size, dtype=np.bool_))
        self._changed[columns.cell_of[increment.places]] = True
        self._watermark = columns.latest_event_at
        if before is not None and self._watermark is not None and self._watermark > before:
            self._mark_passing(before, self._watermark)
        self._settle()
        return increment

    def _mark_passing(self, before: datetime, now: datetime) -> None:
        """Event time alone changes what counts as missing: mark the cells of which a deadline has passed."""
        deadline_us = round(self._deadline_s * 1_000_000)
        since, until = microseconds(before) - deadline_us, microseconds(now) - deadline_us
        recent = self.columns.recent
        passed = (pl.col("expected_at") > since) & (pl.col("expected_at") <= until)
        if may_pass(since - MINUTE_US, until - MINUTE_US):
            passed |= (pl.col("bucket") > since - MINUTE_US) & (pl.col("bucket") <= until - MINUTE_US)
        places = recent.filter(passed)[PLACE].unique().to_numpy().astype(np.intp)
        self._changed[self.columns.cell_of[places]] = True

    def _settle(self) -> None:
        now = self._watermark
        if now is None:
            return
        # The parts of the first reading come in any order: all but the newest minutes can go at once.
        if self.version >= 0 and not may_settle(self._settled_at, now):
            return
        self.columns.settle(now, self._deadline_s, whole=np.zeros(self.columns.epochs, dtype=np.bool_))
        self._settled_at = now
