"""Which watched guardrails can be near an alarm, at the price of what is new.

`watching.watch_actions` runs the detector over all minutes of its window, anew at every look, since a late outcome
changes the minute of its decision and everything after it. For thousands of guardrails that is far too much, and nearly
all of them are nowhere near an alarm. So a bound is carried from minute to minute for each of them, never below what
the detector would find:

* A detector that began earlier is never lower: its sum has further terms, none of them negative. So the bound goes on
  where the detector would begin anew at the edge of its window.
* A bet is multiplied at most by its odds for each failure that comes late. A minute that turns up late is one more
  place to begin at, which adds at most as much as there is, and one, before that.
* The highest level within the window is at most the mean of the highest that each bet has had.

Where that reaches the bar, the detector itself is asked, and the bound begins anew at what it says. So an alarm is
never overlooked, and none is raised by the bound.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from analytics.evidence.change_detector import Watch
from analytics.evidence.mixture import BET_COUNT, bets
from analytics.signals.definitions import RATES
from analytics.signals.state import MINUTE_US, PLACE, may_pass

if TYPE_CHECKING:
    from analytics.evidence.sequential import FloatArray
    from analytics.gates.gate_file import GateFile
    from analytics.signals.state import Columns, Flags, Increment, Integers, Places

# How much lower than the bar the detector is asked already: more than rounding can amount to over any window.
_MARGIN: Final = 1e-6
_HIGHEST: Final = 1e200
_LOG_LARGEST: Final = 230.0


@dataclass
class _Bound:
    """At most so much has each bet won, and at most so much did it ever win. Shape (bets, epochs).

    Attributes:
        now: After the newest closed minute.
        peak: At its highest since the detector was asked.
    """

    now: FloatArray
    peak: FloatArray

    def grow(self, size: int) -> None:
        """Make room for epochs that are new."""
        more = size - self.now.shape[1]
        if more:
            self.now, self.peak = (np.hstack([each, np.zeros((BET_COUNT, more))]) for each in (self.now, self.peak))


class Alarms:
    """The detectors of every guardrail rate that a gate file watches, by signal and limit.

    Args:
        columns: Everything counted.
        gates: The gate file.
        watermark_us: Event time up to which everything has been read, microseconds since 1970.
    """

    def __init__(self, columns: Columns, gates: GateFile, watermark_us: int) -> None:
        self._columns = columns
        self._run_length = gates.after_promotion.run_length(60.0)
        self._window_us = round(gates.after_promotion.window * 1_000_000)
        self._watermark_us = watermark_us
        watched = {
            (part.signal, part.limit)
            for gate in gates.gates
            for part in gate.signals
            if part.limit is not None and any(gate.watches(part, stage) for stage in part.stages)
        }
        self._bounds = {asked: _Bound(np.zeros((BET_COUNT, 0)), np.zeros((BET_COUNT, 0))) for asked in watched}
        self._grow()
        self._step(watermark_us - self._window_us, watermark_us - MINUTE_US)

    def advance(self, increment: Increment | None, before_us: int, now_us: int) -> None:
        """Take in an increment that the columns hold already, and the minutes that close on the way to a watermark."""
        self._watermark_us = now_us
        if not self._bounds:
            return
        self._grow()
        if increment is not None:
            self._take_late(increment.minutes, before_us)
        if may_pass(before_us, now_us):
            # What was closed before is in the bound already.
            self._step(max(before_us - MINUTE_US + 1, now_us - self._window_us), now_us - MINUTE_US)

    def raised(self, signal: str, limit: float, places: Places) -> Flags:
        """Whether the detector of a guardrail has raised an alarm within its window, for each of some epochs."""
        bound = self._bounds[(signal, limit)]
        found = np.zeros(places.size, dtype=np.bool_)
        (near,) = np.nonzero(bound.peak[:, places].mean(axis=0) >= self._run_length * (1.0 - _MARGIN))
        if near.size:
            found[near] = self._ask(signal, limit, places[near], bound)
        return found

    def _ask(self, signal: str, limit: float, places: Places, bound: _Bound) -> Flags:
        """Ask the detector itself, as `watching.watch_actions` does, and begin the bounds anew."""
        minutes = self._columns.minutes(
            places, since_us=self._watermark_us - self._window_us, until_us=self._watermark_us - MINUTE_US
        )
        failed, tried = counted(minutes, signal)
        at, steps = np.unique(minutes[PLACE].to_numpy(), return_counts=True)
        column_of = np.full(self._columns.epochs, -1, dtype=np.intp)
        column_of[places] = np.arange(places.size)
        columns = np.repeat(column_of[at], steps)
        row = np.arange(columns.size) - np.repeat(np.cumsum(steps) - steps, steps)
        x, n = (np.zeros((int(steps.max(initial=1)), places.size), dtype=np.int64) for _ in range(2))
        x[row, columns], n[row, columns] = failed, tried
        watch = Watch.start(places.size, threshold=limit, run_length=self._run_length).after(x, n)
        level = peak = np.zeros((BET_COUNT, places.size))
        for failures, trials in zip(x, n, strict=True):
            level = np.where(trials > 0, _stepped(level, failures, trials, limit), level)
            peak = np.maximum(peak, level)
        bound.now[:, places], bound.peak[:, places] = level, peak
        return watch.alarmed

    def _step(self, since_us: int, until_us: int) -> None:
        """Step through the minutes that have closed between two moments, both included."""
        closed = self._columns.recent.filter(pl.col("bucket").is_between(since_us, until_us))
        if closed.is_empty() or not self._bounds:
            return
        closed = _summed(closed, self._needed).sort("bucket")
        buckets = closed["bucket"].to_numpy()
        edges = [0, *(np.flatnonzero(np.diff(buckets)) + 1), buckets.size]
        at = closed[PLACE].to_numpy()
        for (signal, limit), bound in self._bounds.items():
            failed, tried = counted(closed, signal)
            for first, last in itertools.pairwise(edges):
                acted = first + np.flatnonzero(tried[first:last] > 0)
                places = at[acted]
                level = _stepped(bound.now[:, places], failed[acted], tried[acted], limit)
                bound.now[:, places] = level
                bound.peak[:, places] = np.maximum(bound.peak[:, places], level)

    def _take_late(self, minutes: pl.DataFrame, before_us: int) -> None:
        """Raise the bounds of epochs of which outcomes came for minutes that had closed before."""
        since_us, until_us = before_us - self._window_us, before_us - MINUTE_US
        late = minutes.filter(pl.col("bucket").is_between(since_us, until_us)).select(PLACE, "bucket", *self._needed)
        if late.is_empty():
            return
        touched = self._columns.recent.filter(pl.col("bucket").is_between(since_us, until_us))
        whole = _summed(touched.join(late, on=[PLACE, "bucket"], how="semi"), self._needed)
        both = whole.join(late, on=[PLACE, "bucket"], how="inner", suffix="_late")
        earlier = both.select(PLACE, *((pl.col(name) - pl.col(f"{name}_late")).alias(name) for name in self._needed))
        at = both[PLACE].to_numpy()
        for (signal, _), bound in self._bounds.items():
            (failed_before, tried_before), (failed, tried) = counted(earlier, signal), counted(both, signal)
            more, new = (np.zeros(self._columns.epochs) for _ in range(2))
            np.add.at(more, at, np.maximum(failed - failed_before, 0))
            np.add.at(new, at, (tried_before <= 0) & (tried > 0))
            places = np.flatnonzero((more > 0) | (new > 0))
            for each in (bound.now, bound.peak):
                doubled = _times(each[:, places] + 1.0, new[places] * np.log(np.full((BET_COUNT, 1), 2.0))) - 1.0
                each[:, places] = _times(doubled, more[places] * np.log(bets("above")))

    def _grow(self) -> None:
        for bound in self._bounds.values():
            bound.grow(self._columns.epochs)

    @property
    def _needed(self) -> list[str]:
        signals = {signal for signal, _ in self._bounds}
        return sorted({name for each in signals for name in (*RATES[each].failures, *RATES[each].trials)})


def counted(minutes: pl.DataFrame, signal: str) -> tuple[Integers, Integers]:
    """Failures and trials of a signal in every minute; an event that comes twice for one trial is one failure."""
    rate = RATES[signal]
    both = minutes.select(pl.sum_horizontal(rate.failures).alias("x"), pl.sum_horizontal(rate.trials).alias("n"))
    trials = both["n"].to_numpy()
    return np.minimum(both["x"].to_numpy(), trials), trials


def _stepped(level: FloatArray, failures: Integers, trials: Integers, limit: float) -> FloatArray:
    """One minute of `detector.Watch`, without its logarithms. Shape (bets, cells)."""
    won = failures * np.log(bets("above")) - trials * np.log1p((bets("above") - 1.0) * limit)
    return _times(1.0 + level, np.asarray(won))


def _times(level: FloatArray, log_factor: FloatArray) -> FloatArray:
    """A level times a factor; what would leave the range of a float is as high as it gets."""
    factor = np.exp(np.minimum(log_factor, _LOG_LARGEST))
    return np.asarray(np.where(log_factor > _LOG_LARGEST, _HIGHEST, np.minimum(level * factor, _HIGHEST)))


def _summed(minutes: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    return minutes.group_by(PLACE, "bucket").agg(pl.col(names).sum())
