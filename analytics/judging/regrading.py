"""Epochs that are over, and of which outcomes came late: which of them are to be graded anew, and when."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from analytics.judging.judging import epochs_of
from analytics.judging.user_windows import closed_through
from analytics.signals.cells import EPOCH
from analytics.signals.state import microseconds
from analytics.verdicts import ledger
from producers.wire.events import VerdictName

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from analytics.gates.gate_file import GateFile
    from analytics.lake.tables import Lake
    from analytics.signals.cells import EpochKey
    from analytics.signals.state import Columns, Flags, Places
    from analytics.verdicts.verdict import Verdict

# By the clock. Just after a change of model the old epoch's outcomes come in one by one, and each look at its users
# reads its events.
_BETWEEN_LOOKS: Final = timedelta(seconds=5)


class Regrading:
    """What is known of epochs that are over. Only what was graded once can be graded anew, and only to its harm.

    Args:
        lake: The lake whose ledger tells what was graded.
        columns: Everything counted.

    Raises:
        LakeError: The lake cannot be read.
    """

    def __init__(self, lake: Lake, columns: Columns) -> None:
        users = ledger.newest_users(lake)
        self._columns = columns
        self._told = {
            "graded": ledger.graded(lake),
            "rolled_back": ledger.graded(lake, verdict=VerdictName.ROLL_BACK),
        }
        self._graded: Flags = np.empty(0, dtype=np.bool_)
        self._rolled_back: Flags = np.empty(0, dtype=np.bool_)
        self._changed: Flags = np.empty(0, dtype=np.bool_)
        self._looked_at: datetime | None = None
        # Up to where user-windows had closed when it was last asked what is due; None where they are not counted.
        self._as_of = None if users is None else users[1]

    def grow(self) -> None:
        """Make room for epochs that are new to the columns."""
        first, size = self._graded.size, self._columns.epochs
        if first == size:
            return
        more = np.zeros(size - first, dtype=np.bool_)
        self._graded, self._rolled_back, self._changed = (
            np.append(each, more) for each in (self._graded, self._rolled_back, self._changed)
        )
        for name, flags in (("graded", self._graded), ("rolled_back", self._rolled_back)):
            # What the ledger knows of epochs that the columns did not; few are ever left.
            known = self._told[name]
            if known:
                places = self._columns.places_of(epochs_of(known))
                flags[places[places >= 0]] = True
                self._told[name] = self._unplaced(known, places)

    def take(self, verdicts: Iterable[Verdict]) -> None:
        """Remember verdicts that the ledger has."""
        told = [((*each.inputs.cell, each.inputs.epoch), each.result.verdict) for each in verdicts]
        for keys, flags in (
            ([key for key, _ in told], self._graded),
            ([key for key, word in told if word is VerdictName.ROLL_BACK], self._rolled_back),
        ):
            if keys:
                places = self._columns.places_of(epochs_of(keys))
                flags[places[places >= 0]] = True

    def due(self, touched: Flags, current: Places, gates: GateFile, watermark: datetime, now: datetime) -> Places:
        """The epochs to be graded anew now.

        Where actions are counted, whatever changed, at once. Where users are, now and then, and as the last windows of
        an epoch close: they were open when the next one took over.

        Args:
            touched: Epochs that changed since the last look that was recorded.
            current: The current epochs.
            gates: The gate file in force.
            watermark: Event time up to which everything has been read.
            now: The present moment.
        """
        late = self._graded & ~self._rolled_back
        late[current] = False
        self._changed = (self._changed | touched) & late
        as_of = closed_through(watermark, gates.user_window) if gates.counts_users else None
        if as_of is not None and self._as_of is not None and as_of > self._as_of:
            self._changed |= late & (self._columns.last_us >= microseconds(self._as_of))
        self._as_of = as_of
        if gates.counts_users and self._looked_at is not None and now < self._looked_at + _BETWEEN_LOOKS:
            return np.empty(0, dtype=np.intp)
        (waiting,) = np.nonzero(self._changed)
        if waiting.size:
            self._looked_at = now
        return waiting

    def looked(self, epochs: Places) -> None:
        """Remember that epochs were looked at, and what came of it recorded."""
        self._changed[epochs] = False

    @staticmethod
    def _unplaced(known: frozenset[EpochKey], places: Places) -> frozenset[EpochKey]:
        frame = epochs_of(known).filter(places < 0)
        return frozenset(frame.select(EPOCH).iter_rows())
