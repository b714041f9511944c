"""The course of a rate in time: the newest day that is over against all before, and the hours of the day.

It is looked at once a closed day, over user-windows in which anything was due; one with any failure has failed. What it
finds is a warning beside the verdict, and decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Self

import numpy as np
import polars as pl

from analytics.evidence.drift import HOURS, WARNING, log_rising, log_uneven_hours
from analytics.verdicts.evidence_models import RateCourseShown

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.evidence.sequential import FloatArray
    from analytics.judging.user_windows import ClosedWindows
    from analytics.signals.state import CellState, EpochRows, Flags, Integers


@dataclass(frozen=True, eq=False)
class RateCourse:
    """How many user-windows of each epoch there were, and failed, by part of time."""

    day: datetime  # the beginning of the newest day (UTC) that is over
    size: int  # how many epochs
    newest: Integers  # windows that closed on that day, and failed ones among them. Shape (2, epochs)
    before: Integers  # those that closed before it. Shape (2, epochs)
    hours: Integers  # both together by the hour of day (UTC) in which they opened. Shape (2, epochs, 24)

    log_rising: FloatArray  # evidence that the rate of each epoch is rising
    log_uneven: FloatArray  # evidence that the rate of each epoch differs by hour of day

    @classmethod
    def from_windows(cls, windows: ClosedWindows, state: CellState, size: int, last: RateCourse | None = None) -> Self:
        """Count the windows of so many epochs; those of today are left out until the day is over.

        `last` is the course before it: of epochs whose counts are the same, the evidence is not worked out again.
        """
        day = windows.newest_day
        ended = windows.by_hour.filter(pl.col("closed_at") <= day + timedelta(days=1))
        rows = state.rows_of(ended)
        placed = (rows >= 0) & (rows < size)
        hour, is_new = ended["hour"].to_numpy()[placed], (ended["closed_at"] > day).to_numpy()[placed]
        parts = np.zeros((2, 2, size, HOURS), dtype=np.int64)
        for side, name in enumerate(("windows", "failed")):
            np.add.at(parts[side], (is_new.astype(np.intp), rows[placed], hour), ended[name].to_numpy()[placed])
        newest, before, hours = parts[:, 1].sum(axis=-1), parts[:, 0].sum(axis=-1), parts.sum(axis=1)
        rising, uneven = np.zeros(size), np.zeros(size)
        other = hours[0].any(axis=-1)
        if last is not None:
            both = min(size, last.size)
            same = (hours[:, :both] == last.hours[:, :both]).all(axis=(0, 2))
            same &= (newest[:, :both] == last.newest[:, :both]).all(axis=0)
            (kept,) = np.nonzero(same)
            rising[kept], uneven[kept] = last.log_rising[kept], last.log_uneven[kept]
            other[kept] = False
        rising[other] = log_rising(newest[1, other], newest[0, other], before[1, other], before[0, other])
        uneven[other] = log_uneven_hours(hours[1, other], hours[0, other])
        return cls(day, size, newest, before, hours, rising, uneven)

    def rises(self, epochs: EpochRows) -> Flags:
        """Which of some epochs to warn of because of the newest day."""
        return np.asarray(self.log_rising[self._at(epochs)] >= WARNING)

    def is_uneven(self, epochs: EpochRows) -> Flags:
        """Which of some epochs to warn of because of an hour of the day."""
        return np.asarray(self.log_uneven[self._at(epochs)] >= WARNING)

    def shown(self, epoch: int) -> RateCourseShown | None:
        """What is shown of one epoch; None where no day with a window is over."""
        at = int(self._at(np.array([epoch]))[0])
        windows, failed = self.hours[:, at]
        if not windows.any():
            return None
        worst = int(np.argmax(failed - failed.sum() * windows / windows.sum()))
        return RateCourseShown(
            day=self.day,
            windows_of_day=int(self.newest[0, at]),
            failed_of_day=int(self.newest[1, at]),
            windows_before=int(self.before[0, at]),
            failed_before=int(self.before[1, at]),
            log_e_rising=float(self.log_rising[at]),
            worst_hour=worst,
            windows_of_worst_hour=int(windows[worst]),
            failed_of_worst_hour=int(failed[worst]),
            log_e_uneven_hours=float(self.log_uneven[at]),
            threshold=WARNING,
        )

    def _at(self, epochs: EpochRows) -> EpochRows:
        return np.minimum(epochs, self.size - 1)
