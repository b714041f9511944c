"""What the judge keeps between two looks: everything counted, what is due, and what the ledger says."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.judging.crowds import Crowds
from analytics.judging.glance import ChangeKeys, Glance
from analytics.judging.latches import Crossings
from analytics.judging.ledger_writes import Pace
from analytics.judging.regrading import Regrading
from analytics.judging.watermark import Watermark
from analytics.judging.window_sums import Tracked
from analytics.lake.errors import LakeError
from analytics.lake.table_schemas import SIGNALS
from analytics.signals.cells import EPOCH
from analytics.signals.state import Columns, may_settle
from analytics.verdicts import ledger

if TYPE_CHECKING:
    import polars as pl

    from analytics.gates.gate_file import GateFile
    from analytics.lake.tables import Lake
    from analytics.signals.state import Flags, Increment, Places

# How often within the freshness limit every cell is looked at, whether or not anything is known to have changed it.
_FULL_ROUNDS: Final = 3

logger = logging.getLogger(__name__)


class Memory:
    """Everything that a judge knows, read from the lake when it begins and kept up from then on.

    Args:
        lake: The lake.
        settle_s: Seconds that an event time must have been known before the watermark moves there.

    Attributes:
        columns: Everything counted.
        change_keys: The change_keys that occurred.
        pace: What the ledger says of each cell.
        crossings: What crossed, and what was graded anew.
        crowds: Closed user-windows.
        regrading: Which epochs that are over are to be graded anew.
        version: Version of `signals` that the columns are at; -1 before the first.
        due: The cells that have to be looked at.
        touched: The epochs of which anything came since the last look that was recorded.
        current: The current epoch of each cell.
        is_sound: False while it is being changed: what broke off then is not to be used.
    """

    def __init__(self, lake: Lake, settle_s: float) -> None:
        self._lake = lake
        self._follower = Watermark(settle_s=settle_s, at=ledger.newest_watermark(lake))
        self._horizon_s = 0.0
        self._gate_sha256: str | None = None
        self._all_due_at: datetime | None = None
        self._settled_at: datetime | None = None
        self._tracked: Tracked | None = None
        self._glance: Glance | None = None
        self.columns = Columns()
        self.change_keys = ChangeKeys()
        self.pace = Pace(ledger.last_words(lake), self.columns, self.change_keys)
        self.crossings = Crossings(ledger.latches(lake), ledger.reassessments(lake))
        self.crowds = Crowds(lake, self.columns, ledger.newest_users(lake))
        self.regrading = Regrading(lake, self.columns)
        self.version = -1
        self.due: Flags = np.empty(0, dtype=np.bool_)
        self.touched: Flags = np.empty(0, dtype=np.bool_)
        self.current: Places = np.empty(0, dtype=np.intp)
        self.is_sound = True

    @property
    def tracked(self) -> Tracked:
        """The sums over minutes and bins that the gate file asks for."""
        if self._tracked is None:
            raise RuntimeError("nothing was read yet")
        return self._tracked

    @property
    def glance(self) -> Glance:
        """The glance under the gate file."""
        if self._glance is None:
            raise RuntimeError("nothing was read yet")
        return self._glance

    def read(self, gates: GateFile, version: int, now: datetime, *, caught_up: bool) -> bool:
        """Take in what was appended up to a version of `signals`, and see which cells have to be looked at.

        Returns:
            Whether anything was ever counted.

        Raises:
            LakeError: The lake cannot be read; nothing was changed.
        """
        if self.version < 0:
            late = self._since_last_judge(version)
            self.is_sound = False
            self._begin(gates, version)
            self._grow()
            self.touched[slice(None) if late is None else self.columns.places_of(late)] = True
            increment = None
        else:
            rows = self._lake.increments(SIGNALS, after=self.version, through=version)
            self.is_sound = False
            increment = self.columns.add(rows) if rows.height else None
            self._grow()
            if increment is not None:
                self.touched[increment.places] = True
        # A longer memory than before has to be filled again.
        anew = self.version >= 0 and gates.horizon_s > self._horizon_s
        if anew:
            self._remember(gates, version)
        self.version, self._horizon_s = version, gates.horizon_s
        is_anything = self.columns.latest_event_at is not None
        if is_anything:
            self._move_on(gates, increment, now, caught_up=caught_up, anew=anew)
        self.is_sound = True
        return is_anything

    def look_at(self, cells: Places | None = None) -> None:
        """Let some cells be due; all of them where none are given."""
        self.due[slice(None) if cells is None else cells] = True
        self._find_current()

    def settle(self, gates: GateFile) -> None:
        """Let go of minutes that no later look depends on, now and then."""
        watermark = self.tracked.watermark
        if may_settle(self._settled_at, watermark):
            self._let_go(gates)
            self._settled_at = watermark

    def _begin(self, gates: GateFile, version: int) -> None:
        """Read everything, and let go at once of what does not matter any more."""
        for rows in self._lake.batches(SIGNALS, version=version):
            self.columns.add(rows)
            self._let_go(gates)

    def _remember(self, gates: GateFile, version: int) -> None:
        self.columns.forget()
        for rows in self._lake.batches(SIGNALS, version=version):
            self.columns.remember(rows)
            self._let_go(gates)

    def _let_go(self, gates: GateFile) -> None:
        if self._follower.at is not None:
            self.columns.settle(self._follower.at, gates.horizon_s, whole=self._compared(gates))

    def _move_on(
        self, gates: GateFile, increment: Increment | None, now: datetime, *, caught_up: bool, anew: bool
    ) -> None:
        newest = self.columns.latest_event_at
        settled = None if newest is None else self._follower.follow(newest, now, caught_up=caught_up)
        watermark = self.columns.earliest_bucket if settled is None else settled
        if increment is not None:
            self._mark(increment.places)
        other_gates = gates.sha256 != self._gate_sha256
        if other_gates or anew or self._tracked is None or watermark < self._tracked.watermark:
            self._tracked = Tracked(self.columns, gates, watermark)
            self.due[:] = True
        else:
            self._mark(np.flatnonzero(self._tracked.advance(increment, watermark)))
        if other_gates or self._glance is None:
            self._glance = Glance(self.columns, gates)
        elif increment is not None:
            self._glance.match(increment.risen)
        self._gate_sha256 = gates.sha256
        every = timedelta(seconds=gates.freshness_s / _FULL_ROUNDS)
        if self._all_due_at is None or watermark >= self._all_due_at + every:
            self.due[:], self._all_due_at = True, watermark
        self._find_current()

    def _grow(self) -> None:
        cells, epochs = len(self.columns.cells), self.columns.epochs
        self.due = np.append(self.due, np.ones(cells - self.due.size, dtype=np.bool_))
        self.current = np.append(self.current, np.zeros(cells - self.current.size, dtype=np.intp))
        self.touched = np.append(self.touched, np.zeros(epochs - self.touched.size, dtype=np.bool_))
        self.pace.grow()
        self.regrading.grow()

    def _since_last_judge(self, version: int) -> pl.DataFrame | None:
        """The epochs that changed after the last look of the judge before this one; None where nobody knows."""
        known = ledger.newest_lake_version(self._lake)
        if known is None or known > version:
            return None
        try:
            rows = self._lake.increments(SIGNALS, after=known, through=version)
        except LakeError:
            # The log of a lake that is kept clean does not reach back for ever.
            logger.info("what changed since version %s of the signals is not known any more", known)
            return None
        return rows.select(EPOCH).unique()

    def _mark(self, epochs: Places) -> None:
        cells = self.columns.cell_of[epochs]
        self.due[cells] = True
        self.pace.move(cells)

    def _find_current(self) -> None:
        epochs = self.columns.current(self.due, self.tracked.watermark)
        self.current[self.columns.cell_of[epochs]] = epochs

    def _compared(self, gates: GateFile) -> Flags:
        """The epochs of actions that may be compared with a baseline or a declared split: all their minutes matter."""
        matches = [gate.match for gate in gates.gates if gate.compares]
        if not matches:
            return np.zeros(self.columns.epochs, dtype=np.bool_)
        compared = np.array([any(match.may_cover(*action) for match in matches) for action in self.columns.actions])
        return np.asarray(compared[self.columns.action_of][self.columns.cell_of])
