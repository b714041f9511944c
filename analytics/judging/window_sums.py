"""Sums over minutes and histogram bins that a gate file asks for, kept up with every increment.

What is not mature yet, what is missing and what a detector may have seen depend on single minutes. Each is held as a
sum that an increment, or the passing of a minute, changes by what it brings; so a look costs by what changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from analytics.evidence import histogram
from analytics.judging.regression import ActionDetector
from analytics.signals.alive_epochs import ESTABLISHED_AFTER
from analytics.signals.cells import MINUTE_US, ONE_MINUTE, ROW
from analytics.signals.definitions import COUNTERS, QUANTILES
from analytics.signals.missing_outcomes import EVENT_TIMES
from analytics.signals.state import may_pass, microseconds, moment_of

if TYPE_CHECKING:
    from datetime import datetime

    from analytics.gates.gate_file import GateFile
    from analytics.signals.missing_outcomes import MissingOutcomes
    from analytics.signals.state import CellState, EpochRows, Flags, Increment, Integers

_OPEN: Final = (ROW, "bucket", "expected", "executed", *EVENT_TIMES)
_ESTABLISHED_US: Final = ESTABLISHED_AFTER // ONE_MINUTE * MINUTE_US


class WindowSums:
    """The sums over minutes and bins that one gate file asks for, at one watermark and the state's increments."""

    def __init__(self, state: CellState, gates: GateFile, watermark: datetime) -> None:
        parts = [part for gate in gates.gates for part in gate.signals]
        self._state = state
        self.watermark_us = microseconds(watermark)
        self._deadline_us = _us(gates.outcome_deadline_s)
        self._windows = {age_s for part in parts for age_s in gates.ages_s(part)} - {0.0}
        self._freshness_us = _us(gates.freshness_s)
        self._expiries_us = {_us(gate.hold_expires) for gate in gates.gates if gate.hold_expires is not None}
        self._limits = {
            (QUANTILES[part.signal].source, histogram.snap(part.limit_micro))
            for part in parts
            if part.limit_micro is not None
        }
        sources = {QUANTILES[part.signal].source for part in parts if part.signal in QUANTILES}
        # Of every epoch, the observations in a histogram, and those above a limit that lies on a bound.
        self.observed: dict[str, Integers] = {name: np.zeros(0, dtype=np.int64) for name in sources}
        self.above: dict[tuple[str, int], Integers] = {limit: np.zeros(0, dtype=np.int64) for limit in self._limits}
        self._young = {window_s: np.zeros((len(COUNTERS), 0), dtype=np.int64) for window_s in self._windows}
        self._open = pl.DataFrame(schema={name: state.recent.schema[name] for name in _OPEN})
        self._grow()
        for name in sources:
            self._count_bins(name, state.bins(name))
        for window_s in self._windows:
            self._add_young(window_s, state.recent, self.watermark_us)
        self._open = self._still_open(state.recent.select(_OPEN))
        self.detector = ActionDetector(state, gates, self.watermark_us)

    @property
    def watermark(self) -> datetime:
        """Event time up to which everything has been read."""
        return moment_of(self.watermark_us)

    def young(self, window_s: float, name: str) -> Integers:
        """A counter of every epoch over the minutes that are not older than a maturity window."""
        return np.asarray(self._young[window_s][COUNTERS.index(name)])

    def has_young(self, window_s: float) -> Flags:
        """The epochs with a minute that is not older than a maturity window, whatever was counted in it."""
        since_us = self.watermark_us - _us(window_s) - MINUTE_US
        flags = np.zeros(self._state.epochs, dtype=np.bool_)
        flags[_rows(self._state.recent.filter(pl.col("bucket") > since_us))] = True
        return flags

    def missing(self) -> MissingOutcomes:
        """Expected, missing and pending executions of every epoch."""
        return self._state.missing_outcomes(self.watermark_us, self._deadline_us, minutes=self._open)

    def advance(self, increment: Increment | None, watermark: datetime) -> Flags:
        """Take in an increment that the state holds already, and move on to a watermark.

        Gives the epochs for which the passing of time alone may change a verdict.
        """
        before, now = self.watermark_us, microseconds(watermark)
        self._grow()
        state = self._state
        if increment is not None:
            for name in self.observed:
                self._count_bins(name, increment.bins[name])
            for window_s in self._windows:
                self._add_young(window_s, increment.minutes, before)
        self.watermark_us = now
        passing = np.zeros(state.epochs, dtype=np.bool_)
        for window_s in self._windows:
            left = _crossing(state.recent, before, now, _us(window_s))
            _add(self._young[window_s], left, -1)
            passing[_rows(left)] = True
        for window_us in (0, self._deadline_us):
            passing[_rows(_crossing(state.recent, before, now, window_us))] = True
        for name in EVENT_TIMES:
            due_at = pl.col(name) + self._deadline_us
            passing[_rows(self._open.filter((due_at > before) & (due_at <= now)))] = True
        if increment is not None:
            self._open = pl.concat([self._open, increment.minutes.select(_OPEN)], rechunk=False)
        self._open = self._still_open(self._open)
        for moments in (
            state.event_us + self._freshness_us,
            state.first_us + _ESTABLISHED_US,
            *(state.first_us + expires_us for expires_us in self._expiries_us),
        ):
            passing |= (moments >= before) & (moments <= now)
        self.detector.advance(increment, before, now)
        return passing

    def _grow(self) -> None:
        size = self._state.epochs
        self.observed = {name: _wider(values, size) for name, values in self.observed.items()}
        self.above = {limit: _wider(values, size) for limit, values in self.above.items()}
        self._young = {window_s: _wider(values, size) for window_s, values in self._young.items()}

    def _count_bins(self, name: str, bins: pl.DataFrame) -> None:
        rows, bin_, count = (bins[column].to_numpy() for column in (ROW, "bin", "count"))
        np.add.at(self.observed[name], rows, count)
        for (source, limit), values in self.above.items():
            if source == name:
                above = bin_ > int(histogram.bin_of(limit))
                np.add.at(values, rows[above], count[above])

    def _add_young(self, window_s: float, minutes: pl.DataFrame, watermark_us: int) -> None:
        young = minutes.filter(pl.col("bucket") > watermark_us - _us(window_s) - MINUTE_US)
        _add(self._young[window_s], young, 1)

    def _still_open(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The minutes of which an execution is due or missing, and those that are too young to say; one row each."""
        summed = rows.group_by(ROW, "bucket").agg(pl.col("expected", "executed").sum(), pl.col(EVENT_TIMES).max())
        late = self.watermark_us - self._deadline_us
        waiting = (pl.col("expected_at") > late).fill_null(value=False)
        unequal = pl.col("expected") != pl.col("executed")
        return summed.filter(unequal | waiting | (pl.col("bucket") + MINUTE_US > late))


def _add(table: Integers, minutes: pl.DataFrame, sign: int) -> None:
    if minutes.is_empty():
        return
    summed = minutes.group_by(ROW).agg(pl.col(COUNTERS).sum())
    epochs = summed[ROW].to_numpy()
    for counter, name in enumerate(COUNTERS):
        table[counter, epochs] += sign * summed[name].to_numpy()


def _crossing(minutes: pl.DataFrame, before_us: int, now_us: int, window_us: int) -> pl.DataFrame:
    """The minutes whose end a watermark passes by a window, on its way from one moment to another."""
    since, until = before_us - window_us - MINUTE_US, now_us - window_us - MINUTE_US
    if not may_pass(since, until):
        return minutes.clear()
    return minutes.filter((pl.col("bucket") > since) & (pl.col("bucket") <= until))


def _rows(minutes: pl.DataFrame) -> EpochRows:
    return minutes[ROW].to_numpy().astype(np.intp)


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _wider(values: Integers, size: int) -> Integers:
    """The same values, with zeros for epochs that are new."""
    more = size - values.shape[-1]
    return np.concatenate([values, np.zeros((*values.shape[:-1], more), dtype=np.int64)], axis=-1) if more else values
