"""When closed user-windows are folded again: once another one has closed, or an epoch is new."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from analytics.judging.gathering import Gathering
from analytics.judging.user_evidence import Crowd
from analytics.judging.user_windows import closed_through
from analytics.signals.cells import ACTION
from analytics.signals.state import NEVER

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.gates.gate_file import GateFile
    from analytics.lake.tables import Lake
    from analytics.signals.state import Columns, Flags, Places

# By the clock: reading events costs more than reading increments.
_BETWEEN_FOLDS: Final = timedelta(seconds=5)


class Crowds:
    """Keeps the fold of user-windows that looks go by.

    Args:
        lake: The lake, for the table `events`.
        columns: Everything counted.
        left: Where the judge before this one stood: the version of the events, and the end of the newest closed window.
    """

    def __init__(self, lake: Lake, columns: Columns, left: tuple[int, datetime] | None) -> None:
        self._gathering = Gathering(lake)
        self._columns = columns
        self._left = left
        self._crowd: Crowd | None = None
        self._covered = np.empty(0, dtype=np.bool_)
        self._folded_at: datetime | None = None

    def follow(self, gates: GateFile, watermark: datetime, now: datetime, current: Places) -> Crowd | None:
        """The closed user-windows at a watermark; None where no gate asks for them.

        Args:
            gates: The gate file.
            watermark: Event time up to which everything has been read.
            now: The present moment.
            current: The current epoch of every cell.

        Raises:
            LakeError: The events cannot be read.
        """
        if not gates.counts_users:
            self._crowd = None
            return None
        as_of, epochs = closed_through(watermark, gates.user_window), self._followed(gates, current)
        if self._left is not None:
            # Where the last judge stood: a restart alone makes no verdict a new one.
            version, left_at = self._left
            self._left = None
            if as_of <= left_at:
                return self._fold(gates, left_at, epochs, version)
        known = self._crowd
        if known is not None and known.users.window_s == gates.user_window and self._covers(epochs):
            if as_of <= known.users.as_of:
                return known
            if self._folded_at is not None and now < self._folded_at + _BETWEEN_FOLDS:
                return known
        self._folded_at = now
        return self._fold(gates, as_of, epochs, None)

    def _followed(self, gates: GateFile, current: Places) -> Places:
        """The epochs whose user-windows matter; as `splits.followed`."""
        columns, split = self._columns, self._split(gates)
        if not split.any():
            return current
        action_of = columns.action_of[columns.cell_of]
        began = np.full(split.size, -NEVER, dtype=np.int64)
        np.minimum.at(began, action_of[current], columns.first_us[current])
        beside = split[action_of] & (columns.last_us >= began[action_of])
        beside[current] = True
        return np.flatnonzero(beside)

    def _split(self, gates: GateFile) -> Flags:
        """The actions of which a gate declares a split of users; as `splits.counted_by_user`."""
        wanted = [gate.match for gate in gates.gates if gate.split_unit == "user"]
        if not wanted:
            return np.zeros(len(self._columns.actions), dtype=np.bool_)
        return np.array([any(match.may_cover(*action) for match in wanted) for action in self._columns.actions])

    def _fold(self, gates: GateFile, as_of: datetime, epochs: Places, version: int | None) -> Crowd:
        split = [self._columns.actions[place] for place in np.flatnonzero(self._split(gates))]
        maturities = [part.maturity or 0.0 for gate in gates.gates for part in gate.signals]
        users = self._gathering.fold(
            as_of=as_of,
            window_s=gates.user_window,
            kept_s=max(gates.after_promotion.lookback_s(gates.user_window), *maturities, 0.0),
            version=version,
            epochs=self._columns.names(epochs),
            split=pl.DataFrame(split, schema=dict.fromkeys(ACTION, pl.String), orient="row"),
        )
        self._covered = np.zeros(self._columns.epochs, dtype=np.bool_)
        self._covered[epochs] = True
        self._crowd = Crowd(users, self._columns)
        return self._crowd

    def _covers(self, epochs: Places) -> bool:
        known = epochs < self._covered.size
        return bool(known.all() and self._covered[epochs].all())
